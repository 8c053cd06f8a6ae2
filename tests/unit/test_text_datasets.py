"""Text datasets in files: their formats, their defects, and what is said of both."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.datasets import ctw1500, icdar2015, synthetic_text
from sandglass.vision.image import write_image

SQUARE = "10,10,50,10,50,30,10,30"
SQUARE_POINTS = [[10, 10], [50, 10], [50, 30], [10, 30]]
CROSSED = "10,10,50,30,50,10,10,30"
LINE = "10,10,20,20,30,30,40,40"


def pages(folder: Path, names: list[str], annotations: dict[str, str], encoding: str = "utf-8") -> tuple[Path, Path]:
    """Folders of blank images and of annotation files."""
    (folder / "gt").mkdir()
    for name in names:
        write_image(folder / "images" / name, np.full((40, 60, 3), 200, np.uint8))
    for name, text in annotations.items():
        (folder / "gt" / name).write_text(text, encoding=encoding)
    return folder / "images", folder / "gt"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_icdar_line_is_corners_and_a_text(encoding: str, tmp_path: Path) -> None:
    """A byte-order mark, commas in the text, empty lines, both signs of an ignored text, and no text at all."""
    lines = [f"{SQUARE},one, two", "", f"{SQUARE},###", f"{SQUARE},*", f"{SQUARE},日本", SQUARE]
    folders = pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": "\r\n".join(lines)}, encoding)
    data = icdar2015.load(*folders)
    assert data.texts == {"img_1": [(SQUARE_POINTS, flag) for flag in (False, True, True, False, False)]}
    assert "polygons" not in data.protocol
    assert icdar2015.parse(tmp_path / "gt" / "gt_img_1.txt")[0][1] == "one, two"


@pytest.mark.parametrize(
    "line", ["10,10,50,10,50,30,10,SALE", "a word", "nan,10,50,10,50,30,10,30,x", "1e999" + SQUARE]
)
def test_icdar_line_that_is_no_text_is_named(line: str, tmp_path: Path) -> None:
    """The file and the line are in the error."""
    folders = pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": line})
    with pytest.raises(DatasetError, match=r"gt_img_1\.txt") as caught:
        icdar2015.load(*folders)
    assert line[:20] in caught.value.message


def test_text_of_another_encoding_is_named(tmp_path: Path) -> None:
    """A file that is not UTF-8 is told."""
    folders = pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": f"{SQUARE},wörter"}, "latin-1")
    with pytest.raises(DatasetError, match=r"gt_img_1.txt.*UTF-8"):
        icdar2015.load(*folders)


def test_polygons_with_defects_are_counted(tmp_path: Path) -> None:
    """Those without an area or with too few points are left out, those that cross themselves are kept."""
    text = "\n".join([f"{SQUARE},a", f"{CROSSED},b", f"{CROSSED},c", f"{LINE},d", "1,1,2,2,e"])
    folders = pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": text})
    data = icdar2015.load(*folders)
    assert [len(points) for points, _ in data.texts["img_1"]] == [4, 4, 4]
    assert data.protocol["polygons"] == (
        "1 fewer than 3 points (left out), 1 no area (left out), 2 cross themselves (kept)"
    )


def test_images_and_annotations_without_each_other_are_counted(tmp_path: Path) -> None:
    """They are left out and told; ids are in the order of the numbers; a page without text stays."""
    names = ["img_10.png", "img_2.png", "img_3.png"]
    texts = {
        "gt_img_2.txt": f"{SQUARE},a",
        "gt_img_10.txt": "",
        "gt_img_4.txt": "",
        "gt_img_5.txt": "",
        "readme.md": "",
    }
    data = icdar2015.load(*pages(tmp_path, names, texts))
    assert data.image_ids == ["img_2", "img_10"]
    assert data.texts["img_10"] == []
    assert data.protocol["images without annotation"] == "1 left out"
    assert data.protocol["annotations without image"] == "2 left out"


def test_detections_are_refused(tmp_path: Path) -> None:
    """Text is looked for in whole images: boxes of another detector have no meaning."""
    folders = pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": ""})
    with pytest.raises(DatasetError, match="detections"):
        icdar2015.load(*folders, detections=tmp_path / "boxes.json")


def test_pixels_stay_as_they_are_stored(tmp_path: Path) -> None:
    """Annotations refer to stored pixels, so EXIF orientation is not applied."""
    folders = pages(tmp_path, [], {"gt_img_1.txt": f"{SQUARE},a"})
    _, data = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))
    exif = (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    )
    folders[0].mkdir()
    (folders[0] / "img_1.jpg").write_bytes(
        data[:2].tobytes() + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:].tobytes()
    )
    assert cv2.imread(str(folders[0] / "img_1.jpg")).shape == (60, 40, 3)
    assert icdar2015.load(*folders).read("img_1").shape == (40, 60, 3)


def test_ctw_formats_give_the_same(tmp_path: Path) -> None:
    """XML, text with a mark, and 32 numbers relative to a box."""
    outline = [[20 + 5 * i, 40] for i in range(7)] + [[50 - 5 * i, 60] for i in range(7)]
    told = ",".join(str(value) for point in outline for value in point)
    relative = ",".join(str(value) for x, y in outline for value in (x - 20, y - 40))
    xml = (
        '<Annotations><image file="1.jpg"><box height="1" left="2" top="3" width="4"><label>A &amp; B</label>'
        f'<segs>{told}</segs><pts x="1" y="2"/></box><box><label>###</label><segs>{told}</segs></box></image>'
        "</Annotations>"
    )
    annotations = {
        "0001.xml": xml,
        "0001002.txt": f"{told},####A #1, B\n{told},#######\n",
        "1003.txt": f"20,40,50,60,{relative}\n",
    }
    data = ctw1500.load(*pages(tmp_path, ["0001.png", "1002.png", "1003.png"], annotations))
    assert data.texts == {
        "0001": [(outline, False), (outline, True)],
        "1002": [(outline, False), (outline, True)],
        "1003": [(outline, False)],
    }
    assert ctw1500.parse(tmp_path / "gt" / "0001.xml")[0][1] == "A & B"
    assert ctw1500.parse(tmp_path / "gt" / "0001002.txt")[0][1] == "A #1, B"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("1001.txt", SQUARE, "8 numbers"),
        ("1001.txt", "a,b,####word", "a,b"),
        ("1001.xml", "<Annotations>", "not an XML file"),
        ("1001.xml", "<a><box><segs>1,2,x</segs></box></a>", "1,2,x"),
    ],
)
def test_ctw_file_that_does_not_parse_is_named(name: str, text: str, told: str, tmp_path: Path) -> None:
    """The file and what is wrong with it are in the error."""
    with pytest.raises(DatasetError, match=name) as caught:
        ctw1500.load(*pages(tmp_path, ["1001.png"], {name: text}))
    assert told in caught.value.message


def test_ctw_box_without_an_outline_is_counted(tmp_path: Path) -> None:
    """A box that lacks its points has fewer than three."""
    xml = "<a><image><box><label>a</label></box><box><label>b</label><segs>1,1,9,9,</segs></box></image></a>"
    with pytest.raises(DatasetError, match=r"1001\.xml"):
        ctw1500.load(*pages(tmp_path, ["1001.png"], {"1001.xml": xml}))
    (tmp_path / "gt" / "1001.xml").write_text(xml.replace("9,9,", "9,9"))
    data = ctw1500.load(tmp_path / "images", tmp_path / "gt")
    assert data.texts == {"1001": []}
    assert data.protocol["polygons"] == "2 fewer than 3 points (left out)"


def test_drawn_pages_repeat_and_differ() -> None:
    """A page follows from its seed, split and number; its words lie apart, inside, and are darker than their paper."""
    first, words = synthetic_text.render(3, "test", 0)
    synthetic_text.render.cache_clear()
    again, same = synthetic_text.render(3, "test", 0)
    np.testing.assert_array_equal(first, again)
    assert words == same
    assert (synthetic_text.render(3, "train", 0)[0] != first).any()
    assert (synthetic_text.render(3, "test", 1)[0] != first).any()
    for index in range(10):
        image, words = synthetic_text.render(index, "test", 0)
        labels = np.zeros(image.shape[:2], np.uint8)
        for points, _ in words:
            mask = cv2.fillPoly(np.zeros_like(labels), [np.array(points).round().astype(np.int32)], 1)
            labels += mask
            ring = cv2.dilate(mask, np.ones((5, 5))) - mask
            assert image[mask > 0].mean() < image[ring > 0].mean()
        assert labels.max() == 1
