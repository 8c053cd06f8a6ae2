"""COCO's files and images: read, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.datasets import coco_keypoints
from sandglass.datasets._coco_file import IMAGE_FIELDS
from sandglass.sources.card import Card, Input
from sandglass.tasks import topdown_pose
from sandglass.vision.image import read_image


def person(number: int, image: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": 100.0,
            "bbox": [2.0, 3.0, 10.0, 12.0], "keypoints": [5, 6, 2] * 17, **changes}  # fmt: skip


def write(folder: Path, people: list[dict[str, Any]], images: int = 3) -> tuple[Path, Path]:
    """A folder of images and an annotation file."""
    (folder / "images").mkdir()
    for i in range(images):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
    entries = [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in range(images)]
    data = {"images": entries, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    (folder / "a.json").write_text(json.dumps(data))
    return folder / "images", folder / "a.json"


def test_only_usable_people_are_samples(tmp_path: Path) -> None:
    """Crowds, people without keypoints and boxes without area in the image are no samples; those boxes are counted."""
    people = [person(1, 0), person(2, 1, iscrowd=1), person(3, 1, num_keypoints=0, keypoints=[0] * 51),
              person(4, 2, bbox=[5, 5, 0, 9])]  # fmt: skip
    people += [person(5, 2, bbox=[50, 50, 9, 9]), person(6, 1, iscrowd=1, bbox=[5, 5, 0, 9])]
    dataset = coco_keypoints.load(*write(tmp_path, people))
    assert [sample.image_id for sample in topdown_pose.samples(dataset)] == [0]
    assert dataset.protocol["boxes_without_area"] == "2 left out"
    assert dataset.read(2).shape == (20, 30, 3)


def test_boxes_are_cut_to_the_last_pixel() -> None:
    """A box that reaches over the border ends at width - 1 and height - 1, as in mmpose."""
    assert coco_keypoints.clipped_box([-5, 10, 50, 50], 30, 20) == (0, 10, 29, 9)


def test_detections_replace_boxes_and_carry_scores(tmp_path: Path) -> None:
    """A detector's boxes in COCO's result format become the samples; other categories and images do not count."""
    images, annotations = write(tmp_path, [person(1, 0)])
    found = [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
             {"image_id": 0, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.9},
             {"image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(found))
    dataset = coco_keypoints.load(images, annotations, tmp_path / "d.json")
    (sample,) = topdown_pose.samples(dataset)
    assert (sample.box, sample.score) == ((1, 2, 3, 4), 0.5)
    assert dataset.protocol["boxes"].startswith("d.json")


def test_limit_draws_images_with_people_by_seed(tmp_path: Path) -> None:
    """A limited dataset is the same for the same seed, and says how it was drawn."""
    images, annotations = write(tmp_path, [person(1, 0), person(2, 2)])
    dataset = coco_keypoints.load(images, annotations, limit=1)
    assert dataset.protocol["subset"] == "1 of 2 images with people, drawn by seed 0"
    assert dataset.fingerprint == coco_keypoints.load(images, annotations, limit=1).fingerprint
    assert len(dataset.coco["images"]) == 1


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([], "has no person with keypoints"),
        ([person(1, 9)], "name image 9, which is not in its images"),
        ([person(1, 0, bbox=[5, 5, 0, 9])], "has no box with an area in all 3 images"),
        ([person(1, 0, area=None)], "annotation 1 has no area"),
        ([person(1, 0, bbox=["5", 5, 3, 9])], "annotation 1 has no image_id, 17 keypoints and bbox"),
        ([person(1, 0, bbox=[float("nan"), 5, 3, 9])], "annotation 1 has no image_id, 17 keypoints and bbox"),
        ([person(1, 0, keypoints=[1, 2, 3])], "annotation 1 has no image_id, 17 keypoints and bbox"),
    ],
)
def test_annotations_without_use_are_refused(tmp_path: Path, people: list[dict[str, Any]], message: str) -> None:
    """What is wrong with an annotation file is told by its value."""
    with pytest.raises(DatasetError, match=message):
        coco_keypoints.load(*write(tmp_path, people))


def test_fields_that_other_tools_leave_out_are_filled_in(tmp_path: Path) -> None:
    """A person without category, crowd flag, count of keypoints and id is a sample and counts in the metric."""
    optional = ("category_id", "iscrowd", "num_keypoints", "id")
    bare = [{key: value for key, value in person(1, i).items() if key not in optional} for i in (0, 1)]
    dataset = coco_keypoints.load(*write(tmp_path, bare))
    found = [{"image_id": sample.image_id, "keypoints": [[5, 6, 0.9]] * 17, "score": 0.9, "area": 100.0}
             for sample in topdown_pose.samples(dataset)]  # fmt: skip
    assert topdown_pose.score(found, dataset)["AP"]["value"] == pytest.approx(1.0)


@pytest.mark.parametrize("field", IMAGE_FIELDS)
def test_image_without_a_field_is_refused(tmp_path: Path, field: str) -> None:
    """An entry of `images` that lacks what reading needs is told by the field."""
    images, annotations = write(tmp_path, [person(1, 0)])
    data = json.loads(annotations.read_text())
    del data["images"][0][field]
    annotations.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=f"has no {field}"):
        coco_keypoints.load(images, annotations)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bbox": [1, 2, 3]}, "entry 0 is not in COCO's result format"),
        ({"score": "high"}, "entry 0 is not in COCO's result format"),
        ({"bbox": [1, 2, 0, 4]}, "d.json has no box with an area"),
        ({"image_id": 77}, "d.json has no person in the annotated images"),
    ],
)
def test_detections_without_use_are_refused(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    """What is wrong with a file of detections is told by its value."""
    images, annotations = write(tmp_path, [person(1, 0)])
    found = {"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, **entry}
    (tmp_path / "d.json").write_text(json.dumps([found]))
    with pytest.raises(DatasetError, match=message):
        coco_keypoints.load(images, annotations, tmp_path / "d.json")


def test_missing_images_are_named(tmp_path: Path) -> None:
    """Images that the annotations need and the folder lacks are told with names and the number."""
    images, annotations = write(tmp_path, [person(1, 0), person(2, 1)])
    (images / "0.png").unlink()
    (images / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"names 0.png, 1.png: 2 of 2 images are not in"):
        coco_keypoints.load(images, annotations)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}'])
def test_file_that_is_no_annotation_file_is_refused(tmp_path: Path, text: str) -> None:
    """Broken JSON and other JSON are refused by file name."""
    images, annotations = write(tmp_path, [person(1, 0)])
    annotations.write_text(text)
    with pytest.raises(DatasetError, match=r"a.json is not"):
        coco_keypoints.load(images, annotations)


COLOUR = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)


def test_colours_arrive_as_rgb(tmp_path: Path) -> None:
    """A lossless image reads back as its RGB pixels; alpha is dropped."""
    cv2.imwrite(str(tmp_path / "a.png"), COLOUR[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)
    cv2.imwrite(str(tmp_path / "b.png"), np.dstack([COLOUR[..., ::-1], np.full((8, 6), 7, np.uint8)]))
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), COLOUR)


def test_grey_and_sixteen_bits_become_three_bytes(tmp_path: Path) -> None:
    """A grey image has three equal channels, 16 bits are scaled to 8."""
    cv2.imwrite(str(tmp_path / "a.png"), COLOUR[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR[..., :1].repeat(3, 2))
    cv2.imwrite(str(tmp_path / "b.png"), COLOUR[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_allclose(read_image(tmp_path / "b.png").astype(int), COLOUR, atol=1)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    """A JPEG that its camera marked as turned by 90 degrees arrives upright: height and width change places."""
    ok, data = cv2.imencode(".jpg", COLOUR)
    assert ok
    tag = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    raw = data.tobytes()
    (tmp_path / "a.jpg").write_bytes(raw[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + raw[2:])
    assert read_image(tmp_path / "a.jpg").shape == (6, 8, 3)


@pytest.mark.parametrize("content", [b"", b"no image", COLOUR.tobytes()])
def test_corrupt_image_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no image is refused by name."""
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a.jpg is not a readable image"):
        read_image(tmp_path / "a.jpg")


def test_bgr_cards_get_bgr() -> None:
    """The channel order and normalization are the card's."""
    image = np.zeros((20, 20, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    sample = topdown_pose.Sample(0, 0, (2, 2, 10, 10))
    card = Card("a", "topdown-pose", Input((8, 8), (1, 2, 3), (2, 2, 2), "bgr"), model="hourglass")
    array, _ = topdown_pose.prepare(image, sample, card)
    np.testing.assert_allclose(array[:, 4, 4], [(30 - 1) / 2, (20 - 2) / 2, (10 - 3) / 2])
