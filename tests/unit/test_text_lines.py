"""Lines of text files: only line feeds and carriage returns end them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.core.text_lines import read_lines
from sandglass.datasets import ctw1500, icdar2015, imagenet
from sandglass.vision.image import write_image
from unit.test_text_datasets import SQUARE, SQUARE_POINTS, pages

# What str.splitlines takes for the end of a line, beside \r and \n.
SEPARATORS = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_have_their_numbers(end: str, encoding: str, tmp_path: Path) -> None:
    """Empty lines and lines of blanks count but are not given; a byte-order mark is not part of a line."""
    (tmp_path / "a.txt").write_bytes(end.join(["one", "", " \x0c ", "  two\u2028 ", ""]).encode(encoding))
    assert read_lines(tmp_path / "a.txt", DatasetError) == [(1, "one"), (4, "two")]


@pytest.mark.parametrize("data", ["中文".encode("gbk"), b"\xff\xfe\x00", b"\xfe\xff\x00", b"\xff"])
def test_other_encodings_are_refused(data: bytes, tmp_path: Path) -> None:
    """What cannot be decoded is named."""
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.txt is not a text file in UTF-8"):
        read_lines(tmp_path / "a.txt", DatasetError)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_separators_are_part_of_a_text(separator: str, tmp_path: Path) -> None:
    """In ICDAR's and CTW's text files a line with such a character is one text."""
    text = f"{SQUARE},left{separator}right\n{SQUARE},###{separator}\n"
    (tmp_path / "i").mkdir()
    data = icdar2015.load(*pages(tmp_path / "i", ["img_1.png"], {"gt_img_1.txt": text}))
    assert data.texts["img_1"] == [(SQUARE_POINTS, False), (SQUARE_POINTS, True)]
    assert icdar2015.parse(tmp_path / "i/gt/gt_img_1.txt")[0][1] == f"left{separator}right"
    (tmp_path / "c").mkdir()
    curved = {"1001.txt": f"{SQUARE},####left{separator}right\n"}
    assert len(ctw1500.load(*pages(tmp_path / "c", ["1001.png"], curved)).texts["1001"]) == 1


@pytest.mark.parametrize("separator", SEPARATORS[2:])
def test_separators_are_part_of_a_name(separator: str, tmp_path: Path) -> None:
    """A file of labels has a line for each image, whatever the image is called."""
    name = f"a{separator}b.png"
    write_image(tmp_path / "val" / name, np.zeros((4, 5, 3), np.uint8))
    (tmp_path / "labels.txt").write_text(f"{name} 7\n", encoding="utf-8")
    assert imagenet.load(tmp_path / "val", tmp_path / "labels.txt").labels == {0: 7}


@pytest.mark.parametrize(("number", "bad"), [(1, "a word"), (3, "10,10,50,10,50,30,10,SALE")])
def test_line_that_is_not_a_text_is_named_by_its_number(number: int, bad: str, tmp_path: Path) -> None:
    """The file, the line's number with empty ones counted, and the line."""
    lines = ["", f"{SQUARE},a", f"{SQUARE},b", ""]
    lines[number - 1] = bad
    folders = pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": "\n".join(lines)})
    with pytest.raises(DatasetError, match=rf"gt_img_1\.txt, line {number}: '{bad}'"):
        icdar2015.load(*folders)


def test_tabs_between_numbers_are_read(tmp_path: Path) -> None:
    """A spreadsheet writes tabs in place of commas; a tab in a text changes nothing."""
    numbers = SQUARE.replace(",", "\t")
    text = f"{numbers}\ta\tb, c\n{numbers}\t###\n{SQUARE},a\tb\n"
    data = icdar2015.load(*pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": text}))
    assert data.texts["img_1"] == [(SQUARE_POINTS, flag) for flag in (False, True, False)]


def test_files_of_one_name_are_left_out_and_counted(tmp_path: Path) -> None:
    """Which of two images, or of two annotations, belong together is not known."""
    names = ["img_1.png", "img_1.jpg", "img_2.png", "img_3.png", "img_4.png", "img_4.bmp"]
    texts = {f"gt_img_{i}.txt": f"{SQUARE},a" for i in (1, 2, 3)} | {"img_2.txt": f"{SQUARE},b"}
    data = icdar2015.load(*pages(tmp_path, names, texts))
    assert data.image_ids == ["img_3"]
    assert data.protocol["images and annotations of one name"] == "3 left out"
    assert data.protocol["images without annotation"] == "2 left out"


@pytest.mark.parametrize("encoding", ["gbk", "nothing"])
def test_xml_in_an_encoding_that_nobody_knows_is_named(encoding: str, tmp_path: Path) -> None:
    """The parser's own refusal is one line."""
    xml = {"1001.xml": f'<?xml version="1.0" encoding="{encoding}"?><a><box><segs>{SQUARE}</segs></box></a>'}
    with pytest.raises(DatasetError, match=r"1001\.xml is not an XML file"):
        ctw1500.load(*pages(tmp_path, ["1001.png"], xml))


def labelled(folder: Path, text: str, *names: str) -> imagenet.LabelledDataset:
    for name in names:
        write_image(folder / "val" / name, np.zeros((4, 5, 3), np.uint8))
    (folder / "labels.txt").write_text(text, encoding="utf-8")
    return imagenet.load(folder / "val", folder / "labels.txt")


def test_label_that_is_repeated_is_read_once(tmp_path: Path) -> None:
    """The same label for the same image is counted; another one is refused with both lines."""
    dataset = labelled(tmp_path, "\na.png 3\nb.png 4\n\na.png 3\n", "a.png", "b.png")
    assert list(dataset.labels.values()) == [3, 4]
    assert dataset.protocol["labels_listed_twice"] == "1 (a.png)"
    with pytest.raises(DatasetError, match=r"labels\.txt, line 5: a.png already has the label 3 in line 2"):
        labelled(tmp_path, "\na.png 3\nb.png 4\n\na.png 5\n")


@pytest.mark.parametrize("label", ["²", "9" * 5000, "1_0", "+1", "1.0"])
def test_what_only_looks_like_a_number_is_not_a_label(label: str, tmp_path: Path) -> None:
    """Digits of other kinds, and numbers without an end."""
    with pytest.raises(DatasetError, match=r"labels\.txt, line 1"):
        labelled(tmp_path, f"a.png {label}\n", "a.png")


def test_empty_line_among_numbers_is_refused(tmp_path: Path) -> None:
    """There line k is the label of image k: an empty line would move all labels after it."""
    with pytest.raises(DatasetError, match=r"labels\.txt, line 2 is empty"):
        labelled(tmp_path, "1\n\n449\n", "v_1.png", "v_2.png")


def test_images_of_one_number_are_left_out(tmp_path: Path) -> None:
    """Which of them line k is for is not known."""
    dataset = labelled(tmp_path, "449\n62\n", "v_01.png", "w_1.png", "v_2.png")
    assert list(dataset.images.values()) == ["v_2.png"]
    assert dataset.protocol["images_of_one_number"] == "2 (v_01.png, w_1.png)"


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    """`1` and `01` would become one class without a word; `²` is a name like any other."""
    for name in ("1/a.png", "01/b.png"):
        write_image(tmp_path / "val" / name, np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match="several folders of class 1: 01, 1"):
        imagenet.load(tmp_path / "val")
    write_image(tmp_path / "own/²/a.png", np.zeros((4, 5, 3), np.uint8))
    assert imagenet.load(tmp_path / "own").classes == ("²",)
