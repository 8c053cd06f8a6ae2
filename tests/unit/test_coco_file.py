"""COCO's files as people write them: what can be understood is read, what is ambiguous is counted, the rest refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.datasets import KeypointDataset, coco_keypoints
from sandglass.tasks import bottomup_pose, topdown_pose

Change = Callable[[dict[str, Any]], Any]


def person(number: Any, image: Any, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": 100.0,
            "bbox": [2.0, 3.0, 10.0, 12.0], "keypoints": [4 + number, 6, 2] * 17, **changes}  # fmt: skip


def content() -> dict[str, Any]:
    """Three images with a person each, and one without."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in range(1, 5)]
    return {"images": images, "annotations": [person(i, i) for i in range(1, 4)],
            "categories": [{"id": 1, "name": "person"}]}  # fmt: skip


def loaded(folder: Path, change: Change, encoding: str = "utf-8", **options: Any) -> KeypointDataset:
    """The dataset of the file with one change."""
    (folder / "images").mkdir(exist_ok=True)
    for i in range(1, 5):
        cv2.imwrite(str(folder / f"images/{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
    data = content()
    change(data)
    (folder / "a.json").write_text(json.dumps(data), encoding=encoding)
    return coco_keypoints.load(folder / "images", folder / "a.json", **options)


def scored(dataset: KeypointDataset) -> float:
    """The AP of predictions that are right for each sample."""
    people = topdown_pose.truths(dataset)
    assert len(people) == len(topdown_pose.samples(dataset))
    return float(topdown_pose.score(people, dataset)["AP"]["value"])


def each(key: str, field: str, value: Callable[[Any], Any]) -> Change:
    """Replaces a field of every entry by what `value` makes of it."""

    def change(data: dict[str, Any]) -> None:
        for entry in data[key]:
            entry[field] = value(entry[field])

    return change


def together(*changes: Change) -> Change:
    return lambda data: [change(data) for change in changes]


def first(key: str, **fields: Any) -> Change:
    return lambda data: data[key][0].update(fields)


READ_AS_THEY_ARE = {
    "nothing": lambda data: None,
    "text ids of images": together(
        each("images", "id", "{:012d}".format), each("annotations", "image_id", "{:012d}".format)),
    "text ids in annotations alone": each("annotations", "image_id", str),
    "text ids with zeros in annotations alone": each("annotations", "image_id", "{:012d}".format),
    "text ids in images alone": each("images", "id", "{:06d}".format),
    "ids with a fraction": together(each("images", "id", float), each("annotations", "image_id", float),
                                    each("annotations", "id", float), each("annotations", "category_id", float)),
    "ids with a fraction in annotations alone": each("annotations", "image_id", float),
    "one id is text": together(first("images", id="first"), first("annotations", image_id="first")),
    "ids of people are equal": each("annotations", "id", lambda _: 0),
    "no ids of people": lambda data: [entry.pop("id") for entry in data["annotations"]],
    "category 0": together(each("categories", "id", lambda _: 0), each("annotations", "category_id", lambda _: 0)),
    "category 0 without a list": together(
        lambda data: data.pop("categories"), each("annotations", "category_id", lambda _: 0)),
    "category 0 with a list that says 1": each("annotations", "category_id", lambda _: 0),
    "category in text": each("annotations", "category_id", str),
    "category by name": each("annotations", "category_id", lambda _: "Person"),
    "no category": lambda data: [entry.pop("category_id") for entry in data["annotations"]],
    "null category": each("annotations", "category_id", lambda _: None),
    "text ids of categories": each("categories", "id", str),
    "another name of the only category": each("categories", "name", lambda _: "dancer"),
    "several categories of people": lambda data: [data["categories"].append({"id": 2, "name": "person"}),
                                                  data["annotations"][0].update(category_id=2)],
    "the one category of 17 keypoints": lambda data: [
        data["categories"].clear(),
        data["categories"].extend([{"id": 5, "name": "dog"}, {"id": 9, "name": "dancer", "keypoints": ["k"] * 17}]),
        each("annotations", "category_id", lambda _: 9)(data)],
    "categories that are not a list": lambda data: data.update(categories=None),
    "crowd flags": each("annotations", "iscrowd", bool),
    "crowd flags in text": each("annotations", "iscrowd", str),
    "null crowd flags": each("annotations", "iscrowd", lambda _: None),
    "counts with a fraction": each("annotations", "num_keypoints", float),
    "counts in text": each("annotations", "num_keypoints", str),
    "null counts": each("annotations", "num_keypoints", lambda _: None),
    "keypoints in threes": each("annotations", "keypoints", lambda row: [row[i : i + 3] for i in range(0, 51, 3)]),
    "sizes with a fraction": each("images", "width", float),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_AS_THEY_ARE)
def test_other_ways_to_write_the_same_give_the_same(name: str, tmp_path: Path) -> None:
    """Samples, boxes and score are those of the plain file, and nothing is left out."""
    dataset = loaded(tmp_path, READ_AS_THEY_ARE[name])
    samples = topdown_pose.samples(dataset)
    assert [sample.box for sample in samples] == [(2, 3, 10, 12)] * 3
    assert sorted(int(dataset.read(sample.image_id)[0, 0, 0]) for sample in samples) == [40, 80, 120]
    assert sorted(entry["keypoints"][0] for entry in dataset.coco["annotations"]) == [5, 6, 7]
    assert scored(dataset) == pytest.approx(1.0)
    assert "left_out" not in dataset.protocol
    assert len(bottomup_pose.samples(dataset)) == 4


@pytest.mark.parametrize("name", READ_AS_THEY_ARE)
def test_a_draw_and_a_detector_work_on_all_of_them(name: str, tmp_path: Path) -> None:
    """`limit` sorts ids of any kind, and detections find their images and people."""
    (tmp_path / "d.json").write_text(json.dumps([{"image_id": image, "bbox": [1, 2, 9, 9], "score": 0.5}
                                                 for image in ("first", 1, "2", 3.0)]))  # fmt: skip
    dataset = loaded(tmp_path, READ_AS_THEY_ARE[name], limit=2)
    assert len(topdown_pose.samples(dataset)) == 2
    dataset = loaded(tmp_path, READ_AS_THEY_ARE[name], detections=tmp_path / "d.json")
    assert len(topdown_pose.samples(dataset)) == 3


@pytest.mark.parametrize("encoding", ["utf-8-sig"])
def test_byte_order_mark_is_not_seen(encoding: str, tmp_path: Path) -> None:
    """Editors on Windows put one in front, of detections as of annotations."""
    detections = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "score": 0.5}]
    (tmp_path / "d.json").write_text(json.dumps(detections), encoding=encoding)
    assert len(loaded(tmp_path, lambda data: None, encoding).coco["annotations"]) == 3
    dataset = loaded(tmp_path, lambda data: None, encoding, detections=tmp_path / "d.json")
    assert len(topdown_pose.samples(dataset)) == 1


def listed_again(**fields: Any) -> Change:
    return lambda data: data["images"].append({**data["images"][0], **fields})


def another_person(**fields: Any) -> Change:
    return lambda data: data["annotations"].append(person(9, 1, **fields))


COUNTED = {
    "images listed twice (1)": listed_again(license=3),
    "images listed twice (2)": together(listed_again(), listed_again(id=1.0)),
    "people listed twice (1)": lambda data: data["annotations"].append(dict(data["annotations"][1])),
    "people without keypoints (1)": lambda data: [another_person()(data), data["annotations"][-1].pop("keypoints")],
    "people without keypoints (2)": together(another_person(keypoints=[]), another_person(keypoints=None, id=8)),
    "people without a box (1)": another_person(bbox=None),
    "people without a box (2)": lambda data: [
        another_person(bbox=[])(data),
        another_person()(data),
        data["annotations"][-1].pop("bbox"),
    ],
    "annotations of an unknown category (1)": another_person(category_id=7),
    "annotations of an unknown category (2)": together(
        another_person(category_id="dog"), another_person(category_id=[1], id=8)
    ),
}


@pytest.mark.parametrize("told", COUNTED)
def test_what_is_ambiguous_is_left_out_and_counted(told: str, tmp_path: Path) -> None:
    """The three people are read as before, and the protocol counts the rest."""
    dataset = loaded(tmp_path, COUNTED[told])
    assert dataset.protocol["left_out"] == told
    assert [sample.box for sample in topdown_pose.samples(dataset)] == [(2, 3, 10, 12)] * 3
    assert scored(dataset) == pytest.approx(1.0)
    assert dataset.image_ids == [1, 2, 3, 4]


def test_listing_of_an_image_under_another_id_that_nobody_is_annotated_in_is_left_out(tmp_path: Path) -> None:
    """What a bottom-up model finds there would count as mistakes."""
    dataset = loaded(tmp_path, listed_again(id=77))
    assert dataset.image_ids == [1, 2, 3, 4]
    assert dataset.protocol["left_out"] == "images listed twice (1)"


def test_id_that_two_images_have_is_left_out_with_its_annotations(tmp_path: Path) -> None:
    """Which of them the annotations mean is not known: neither image is in the dataset, and all is counted."""
    dataset = loaded(tmp_path, listed_again(file_name="2.png"))
    assert dataset.image_ids == [2, 3, 4]
    assert {entry["image_id"] for entry in dataset.coco["annotations"]} == {2, 3}
    assert dataset.protocol["left_out"] == (
        "annotations of an id that several images have (1), images of an id that several images have (2)"
    )
    assert scored(dataset) == pytest.approx(1.0)


def test_numbers_that_two_text_ids_share_are_not_guessed(tmp_path: Path) -> None:
    """A reference that is not equal to an id has to be of the only id of that number."""
    with pytest.raises(DatasetError, match=r"annotations\[0\]: annotations name image 1, which is not in its images"):
        loaded(tmp_path, together(each("images", "id", "{:03d}".format), listed_again(id="01", file_name="2.png")))


def test_person_without_keypoints_is_neither_missed_nor_a_mistake(tmp_path: Path) -> None:
    """As COCO counts it: a prediction at its place is left out of the metric, and so is its absence."""
    dataset = loaded(tmp_path, another_person(keypoints=[], bbox=[20, 5, 8, 12]))
    truths = topdown_pose.truths(dataset)
    found = [*truths, {**truths[0], "keypoints": [[24, 11, 0.9]] * 17, "score": 2.0}]
    assert topdown_pose.score(found, dataset)["AP"]["value"] == pytest.approx(1.0)
    gone = loaded(tmp_path, another_person(keypoints=[], area=None))
    assert len(gone.coco["annotations"]) == 3


def test_people_of_one_id_that_differ_are_all_read(tmp_path: Path) -> None:
    """Equal ids of different people are a slip of the tool that wrote them."""
    dataset = loaded(tmp_path, lambda data: data["annotations"].append(person(1, 2, bbox=[1, 1, 5, 5])))
    assert len(topdown_pose.samples(dataset)) == 4


REFUSED = {
    r"annotations\[0\]: annotation 1 has no image_id": lambda data: data["annotations"][0].pop("image_id"),
    r"annotations\[2\]: annotation 3 has no number as its image_id": lambda data: data["annotations"][2].update(
        image_id=1.5
    ),
    r"annotations\[0\]: annotations name image 99": first("annotations", image_id="99"),
    r"annotations\[0\]: annotation 1 has no image_id, 17 keypoints": first("annotations", keypoints=[1.0] * 34),
    r"annotations\[1\]: annotation 2 has no image_id, 17 k": lambda data: data["annotations"][1].update(bbox=[1, 2]),
    r"annotations\[0\]: annotation 1 has no area": lambda data: data["annotations"][0].pop("area"),
    r"annotations\[0\]: annotation 1 has no whole number as its iscrowd": first("annotations", iscrowd="maybe"),
    r"annotations\[0\]: annotation 1 has no whole number as its num_keypoints": first("annotations", num_keypoints=1.5),
    r"annotations\[3\] is not a JSON object": lambda data: data["annotations"].append(None),
    r"images\[0\] is not a JSON object": lambda data: data["images"].insert(0, 3),
    r"images\[0\]: image True has no file_name, or no number as its id": first("images", id=True),
    r"images\[0\]: image 1.5 has no file_name, or no number as its id": first("images", id=1.5),
    r"has no person with keypoints": each("annotations", "category_id", lambda _: "dog"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_change_a_metric_is_refused_with_its_entry(message: str, tmp_path: Path) -> None:
    """The file and the place in its list are named."""
    with pytest.raises(DatasetError, match=r"a\.json.*" + message):
        loaded(tmp_path, REFUSED[message])


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan")])
def test_numbers_beyond_all_limits_are_refused(value: float, tmp_path: Path) -> None:
    """A coordinate without an end is not a coordinate; as an id it is of no image."""
    with pytest.raises(DatasetError, match=r"a\.json"):
        loaded(tmp_path, first("annotations", bbox=[value, 2, 3, 4]))
    with pytest.raises(DatasetError, match=r"a\.json"):
        loaded(tmp_path, first("annotations", image_id=value))


def test_detections_of_another_category_are_not_people(tmp_path: Path) -> None:
    """Where people are category 0, a detector's category 1 is something else; the error says which one counts."""
    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 9], "score": 0.5}]
    (tmp_path / "d.json").write_text(json.dumps(found))
    change = READ_AS_THEY_ARE["category 0"]
    with pytest.raises(DatasetError, match="has no person in the annotated images") as caught:
        loaded(tmp_path, change, detections=tmp_path / "d.json")
    assert "category_id of people is 0" in caught.value.fix
    (tmp_path / "d.json").write_text(json.dumps([{**found[0], "category_id": "0"}]))
    assert len(topdown_pose.samples(loaded(tmp_path, change, detections=tmp_path / "d.json"))) == 1


def test_predictions_on_mixed_ids_are_matched_to_their_image(tmp_path: Path) -> None:
    """A prediction on the image `first` counts there alone."""
    dataset = loaded(tmp_path, READ_AS_THEY_ARE["one id is text"])
    right = topdown_pose.truths(dataset)
    moved = [{**entry, "image_id": 4 if entry["image_id"] == "first" else entry["image_id"]} for entry in right]
    assert topdown_pose.score(moved, dataset)["AR"]["value"] == pytest.approx(2 / 3)
    assert json.loads(json.dumps(topdown_pose.to_coco(right)))[0]["image_id"] in ("first", 2, 3)
