"""COCO's files of annotations and of detections, as many tools write them: checked, and brought to one form.

What can be understood is read. What is ambiguous is left out and counted. What would change a metric without a word is
refused, with the file and the entry.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeGuard, cast

from sandglass.core.errors import DatasetError
from sandglass.core.files import read_json
from sandglass.core.image_ids import Id, Ids, plain_id
from sandglass.datasets._coco_categories import Categories, read_categories
from sandglass.vision import coco17
from sandglass.vision.coco_format import CocoBox, CocoImage, CocoPerson, CocoTruth

Entry = dict[str, object]

IMAGE_FIELDS = ("id", "file_name", "width", "height")
KEYPOINTS = len(coco17.NAMES)
FIX = "correct the file"
RESULT_FORMAT = "it is a list of image_id, category_id, bbox (x, y, width, height), score"
MOST_BYTES = 1 << 30  # of a file; COCO's own have 240 MB
MOST_COUNT = 1 << 30  # a count or a flag above it is an error
# What is left out, in a protocol's words.
WITHOUT_KEYPOINTS, WITHOUT_BOX = "people without keypoints", "people without a box"
LISTED_PEOPLE, LISTED_IMAGES = "people listed twice", "images listed twice"
OF_UNKNOWN_CATEGORY = "annotations of an unknown category"
OF_SHARED_ID, SHARED_ID = "annotations of an id that several images have", "images of an id that several images have"


@dataclass(frozen=True)
class Annotations:
    """A checked file: `coco` has images, people and their category; `left_out` counts what is not in it."""

    coco: CocoTruth
    categories: Categories
    left_out: Mapping[str, int]

    def note(self) -> dict[str, str]:
        """What a protocol says of the entries that were left out; nothing where none was."""
        counts = ", ".join(f"{what} ({count})" for what, count in sorted(self.left_out.items()) if count)
        return {"left_out": counts} if counts else {}


def read_annotations(path: Path) -> Annotations:
    """Read a file of people with keypoints. Raises DatasetError with the file and the entry for what is malformed."""
    data: object = read_json(path, DatasetError, MOST_BYTES)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise DatasetError(f"{path} is not a COCO annotation file", "it needs the lists `images` and `annotations`")
    left_out: Counter[str] = Counter()
    images, shared = _images(_objects(data["images"], f"{path}, images"), path, left_out)
    entries = _objects(data["annotations"], f"{path}, annotations")
    categories = read_categories(data.get("categories"), entries)
    reader = _PersonReader(path, Ids([*images, *shared]), shared, left_out)
    people = [person for entry in _people(entries, categories, left_out) if (person := reader.read(*entry))]
    if not any(person["num_keypoints"] for person in people):
        raise DatasetError(f"{path} has no person with keypoints", "use a file of COCO person keypoints")
    distinct = _without_empty_repeats(images, {person["image_id"] for person in people}, left_out)
    coco: CocoTruth = {"info": {}, "images": distinct, "annotations": people, "categories": [coco17.CATEGORY]}
    return Annotations(coco, categories, left_out)


def read_detections(path: Path, annotations: Annotations) -> list[CocoBox]:
    """Boxes of people in the annotated images. Raises DatasetError for a malformed entry, and where no box is left."""
    data: object = read_json(path, DatasetError, MOST_BYTES)
    if not isinstance(data, list):
        raise DatasetError(f"{path} is not in COCO's result format", RESULT_FORMAT)
    entries = _objects(data, str(path))
    for number, entry in enumerate(entries):
        named = plain_id(entry.get("image_id")) is not None
        if not named or not are_numbers(entry.get("bbox"), 4) or not are_numbers([entry.get("score")], 1):
            raise DatasetError(f"{path}: entry {number} is not in COCO's result format", RESULT_FORMAT)
    images = Ids(image["id"] for image in annotations.coco["images"])
    people = [
        cast(CocoBox, {**entry, "image_id": image, "category_id": 1})
        for entry in entries
        if (image := images.find(entry["image_id"])) is not None and annotations.categories.is_person(entry)
    ]
    if not people:
        category = annotations.categories.person_id
        raise DatasetError(
            f"{path} has no person in the annotated images",
            f"use detections of the same images, with the annotations' category_id of people, {category!r}",
        )
    return people


def are_numbers(values: object, count: int) -> TypeGuard[list[float]]:
    """Whether `values` are a list of `count` finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in values)
    )


def _objects(entries: list[object], where: str) -> list[Entry]:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}[{number}] is not an object with fields", FIX)
    return cast(list[Entry], entries)


def _images(entries: Sequence[Entry], path: Path, left_out: Counter[str]) -> tuple[dict[Id, CocoImage], set[Id]]:
    """The images by id, and the ids that several images have: which of them an annotation means is not known."""
    images: dict[Id, CocoImage] = {}
    shared: set[Id] = set()
    for number, entry in enumerate(entries):
        image = _image(entry, f"{path}, images[{number}]: image {entry.get('id')}")
        first = images.setdefault(image["id"], image)
        if _listing(first) != _listing(image):
            left_out[SHARED_ID] += 1 if image["id"] in shared else 2
            shared.add(image["id"])
        elif first is not image:
            left_out[LISTED_IMAGES] += 1
    return {own: image for own, image in images.items() if own not in shared}, shared


def _listing(image: CocoImage) -> tuple[Id, str, float, float]:
    """What two entries of the same image agree on: IMAGE_FIELDS."""
    return image["id"], image["file_name"], image["width"], image["height"]


def _image(entry: Entry, where: str) -> CocoImage:
    if lacking := [key for key in IMAGE_FIELDS if key not in entry]:
        raise DatasetError(f"{where} has no {lacking[0]}", "use a complete COCO file")
    own = plain_id(entry["id"])
    if own is None or not isinstance(entry["file_name"], str):
        raise DatasetError(f"{where} has no file_name, or no number as its id", FIX)
    if not are_numbers([entry["width"], entry["height"]], 2):
        raise DatasetError(f"{where} has no width and height in pixels", FIX)
    return cast(CocoImage, {**entry, "id": own})


def _without_empty_repeats(images: Mapping[Id, CocoImage], used: set[Id], left_out: Counter[str]) -> list[CocoImage]:
    """The images without those whose file another one has too, and that have no annotation."""
    listings = Counter(image["file_name"] for image in images.values())
    distinct = []
    for own, image in images.items():
        if own in used or listings[image["file_name"]] == 1:
            distinct.append(image)
        else:
            listings[image["file_name"]] -= 1
            left_out[LISTED_IMAGES] += 1
    return distinct


def _people(entries: Sequence[Entry], categories: Categories, left_out: Counter[str]) -> Iterator[tuple[int, Entry]]:
    """Annotations of people with their places in the file; one that is listed twice under its id comes once."""
    ids = Counter(plain_id(entry.get("id")) for entry in entries)
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        category, own = categories.find(entry), plain_id(entry.get("id"))
        content = json.dumps(entry, sort_keys=True) if own is not None and ids[own] > 1 else ""
        if category != categories.person:
            left_out[OF_UNKNOWN_CATEGORY] += category is None
        elif content and content in seen:
            left_out[LISTED_PEOPLE] += 1
        else:
            seen.add(content)
            yield number, entry


@dataclass
class _PersonReader:
    """Reads annotated people of the file `path`; `shared` are the ids that several images have."""

    path: Path
    images: Ids
    shared: set[Id]
    left_out: Counter[str]

    def read(self, number: int, entry: Entry) -> CocoPerson | None:
        """The person at a place of the file, complete; None for one that is left out. Raises DatasetError."""
        where = f"{self.path}, annotations[{number}]"
        image = self._image(entry, where)
        checked = _Person({**entry, "image_id": image, "category_id": 1}, f"{where}: annotation {entry.get('id')}")
        if image in self.shared:
            self.left_out[OF_SHARED_ID] += 1
        elif not entry.get("bbox"):
            self.left_out[WITHOUT_BOX] += 1
        elif entry.get("keypoints"):
            return checked.with_keypoints()
        else:
            self.left_out[WITHOUT_KEYPOINTS] += 1
            return checked.without_keypoints()
        return None

    def _image(self, entry: Entry, where: str) -> Id:
        plain = plain_id(entry.get("image_id"))
        if plain is None:
            problem = "number as its image_id" if "image_id" in entry else "image_id, 17 keypoints and bbox"
            raise DatasetError(f"{where}: annotation {entry.get('id')} has no {problem}", FIX)
        own = self.images.find(plain)
        if own is None:
            raise DatasetError(f"{where}: annotations name image {plain}, which is not in its images", FIX)
        return own


@dataclass(frozen=True)
class _Person:
    """An annotation of a person, and where it stands."""

    entry: Entry
    where: str

    def with_keypoints(self) -> CocoPerson:
        """Complete, with what other tools leave out: no crowd, keypoints counted by their flags."""
        keypoints = _flat(self.entry["keypoints"])
        if not are_numbers(keypoints, 3 * KEYPOINTS) or not are_numbers(self.entry["bbox"], 4):
            raise self._failure("has no image_id, 17 keypoints and bbox", "every value is a finite number")
        if not are_numbers([self.entry.get("area")], 1):
            raise self._failure("has no area, by which COCO's metric scales distances", "give the area in pixels")
        shown = sum(flag > 0 for flag in keypoints[2::3])
        count = self._whole("num_keypoints", shown)
        counts = {"num_keypoints": count, "iscrowd": self._whole("iscrowd", 0)}
        return cast(CocoPerson, {**self.entry, "keypoints": keypoints, **counts})

    def without_keypoints(self) -> CocoPerson | None:
        """As COCO has it: nobody has to find it, and a prediction that matches it is not a mistake.

        None where its place or size, by which predictions are compared with it, is not known.
        """
        if not are_numbers(self.entry["bbox"], 4) or not are_numbers([self.entry.get("area")], 1):
            return None
        nothing = {"keypoints": [0] * 3 * KEYPOINTS, "num_keypoints": 0}
        return cast(CocoPerson, {**self.entry, **nothing, "iscrowd": self._whole("iscrowd", 0)})

    def _whole(self, name: str, default: int) -> int:
        """A count or a flag: a number, true or false, or digits; the default where there is none."""
        value = self.entry.get(name)
        if value is None:
            return default
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < KEYPOINTS:
            value = int(value)
        if isinstance(value, int | float) and 0 <= value <= MOST_COUNT and value == int(value):
            return int(value)
        raise self._failure(f"has no whole number as its {name}", FIX)

    def _failure(self, problem: str, fix: str) -> DatasetError:
        return DatasetError(f"{self.where} {problem}", fix)


def _flat(keypoints: object) -> object:
    """Keypoints as one list; some tools write a list of x, y and flag for each."""
    if isinstance(keypoints, list) and all(isinstance(row, list) and len(row) == 3 for row in keypoints):
        return list(chain.from_iterable(keypoints))
    return keypoints
