"""COCO's annotation and detection files, in the variants that many tools write: checked and converted to one form.

Known variants are read. Ambiguous entries are left out and counted. Entries that would change a metric silently raise
an error with the file and the entry.
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
MOST_BYTES = 1 << 30  # size of a file, at most; COCO's own have 240 MB
MOST_COUNT = 1 << 30  # largest count or flag
# The names of entries that are left out, as they appear in a protocol.
WITHOUT_KEYPOINTS, WITHOUT_BOX = "people without keypoints", "people without a box"
LISTED_PEOPLE, LISTED_IMAGES = "people listed twice", "images listed twice"
OF_UNKNOWN_CATEGORY = "annotations of an unknown category"
OF_SHARED_ID, SHARED_ID = "annotations of an id that several images have", "images of an id that several images have"


@dataclass(frozen=True)
class Annotations:
    """A checked file: `coco` has images, people and their category; `left_out` counts entries that were left out."""

    coco: CocoTruth
    categories: Categories
    left_out: Mapping[str, int]

    def note(self) -> dict[str, str]:
        """The entry of a protocol for what was left out; empty if nothing was."""
        counts = ", ".join(f"{what} ({count})" for what, count in sorted(self.left_out.items()) if count)
        return {"left_out": counts} if counts else {}


def read_annotations(path: Path) -> Annotations:
    """Read a file of people with keypoints. Raises DatasetError with the file and the entry if it is malformed."""
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
    """The boxes of people in the annotated images. Raises DatasetError for a malformed entry, or if no box is left."""
    data: object = read_json(path, DatasetError, MOST_BYTES)
    if not isinstance(data, list):
        raise DatasetError(f"{path} is not in COCO's result format", RESULT_FORMAT)
    entries = _objects(data, str(path))
    for number, entry in enumerate(entries):
        has_id = plain_id(entry.get("image_id")) is not None
        if not has_id or not are_numbers(entry.get("bbox"), 4) or not are_numbers([entry.get("score")], 1):
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
            f"use detections of the same images; in the annotations the category_id of people is {category!r}",
        )
    return people


def are_numbers(values: object, count: int) -> TypeGuard[list[float]]:
    """Whether `values` is a list of `count` finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and abs(value) <= sys.float_info.max for value in values)
    )


def _objects(entries: list[object], where: str) -> list[Entry]:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}[{number}] is not a JSON object", FIX)
    return cast(list[Entry], entries)


def _images(entries: Sequence[Entry], path: Path, left_out: Counter[str]) -> tuple[dict[Id, CocoImage], set[Id]]:
    """The images by id, and the ids that several images have: an annotation with such an id is ambiguous."""
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
    return {image_id: image for image_id, image in images.items() if image_id not in shared}, shared


def _listing(image: CocoImage) -> tuple[Id, str, float, float]:
    """The fields in which two entries of the same image agree: IMAGE_FIELDS."""
    return image["id"], image["file_name"], image["width"], image["height"]


def _image(entry: Entry, where: str) -> CocoImage:
    if missing := [key for key in IMAGE_FIELDS if key not in entry]:
        raise DatasetError(f"{where} has no {missing[0]}", "use a complete COCO file")
    image_id = plain_id(entry["id"])
    if image_id is None or not isinstance(entry["file_name"], str):
        raise DatasetError(f"{where} has no file_name, or no number as its id", FIX)
    if not are_numbers([entry["width"], entry["height"]], 2):
        raise DatasetError(f"{where} has no width and height in pixels", FIX)
    return cast(CocoImage, {**entry, "id": image_id})


def _without_empty_repeats(images: Mapping[Id, CocoImage], used: set[Id], left_out: Counter[str]) -> list[CocoImage]:
    """The images without repeated ones: those without annotations whose file another image has too."""
    listings = Counter(image["file_name"] for image in images.values())
    distinct = []
    for image_id, image in images.items():
        if image_id in used or listings[image["file_name"]] == 1:
            distinct.append(image)
        else:
            listings[image["file_name"]] -= 1
            left_out[LISTED_IMAGES] += 1
    return distinct


def _people(entries: Sequence[Entry], categories: Categories, left_out: Counter[str]) -> Iterator[tuple[int, Entry]]:
    """The annotations of people with their positions in the file; a repeated entry with the same id is left out."""
    ids = Counter(plain_id(entry.get("id")) for entry in entries)
    earlier: set[str] = set()
    for number, entry in enumerate(entries):
        category, entry_id = categories.find(entry), plain_id(entry.get("id"))
        content = json.dumps(entry, sort_keys=True) if entry_id is not None and ids[entry_id] > 1 else ""
        if category != categories.person:
            left_out[OF_UNKNOWN_CATEGORY] += category is None
        elif content and content in earlier:
            left_out[LISTED_PEOPLE] += 1
        else:
            earlier.add(content)
            yield number, entry


@dataclass
class _PersonReader:
    """Reads annotated people of the file `path`; `shared` holds the ids that several images have."""

    path: Path
    images: Ids
    shared: set[Id]
    left_out: Counter[str]

    def read(self, number: int, entry: Entry) -> CocoPerson | None:
        """The complete person of an entry, or None if the entry is left out. Raises DatasetError for a wrong entry."""
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
        image_id = self.images.find(plain)
        if image_id is None:
            raise DatasetError(f"{where}: annotations name image {plain}, which is not in its images", FIX)
        return image_id


@dataclass(frozen=True)
class _Person:
    """An annotation of a person, and its position in the file, for errors."""

    entry: Entry
    where: str

    def with_keypoints(self) -> CocoPerson:
        """The person with all fields; by default it is not a crowd, and keypoints are counted by their flags."""
        keypoints = _flat(self.entry["keypoints"])
        if not are_numbers(keypoints, 3 * KEYPOINTS) or not are_numbers(self.entry["bbox"], 4):
            raise self._failure("has no image_id, 17 keypoints and bbox", "use finite numbers for all values")
        if not are_numbers([self.entry.get("area")], 1):
            raise self._failure("has no area, which COCO's metric needs to scale distances", "add the area in pixels")
        flagged = sum(flag > 0 for flag in keypoints[2::3])
        count = self._whole("num_keypoints", flagged)
        counts = {"num_keypoints": count, "iscrowd": self._whole("iscrowd", 0)}
        return cast(CocoPerson, {**self.entry, "keypoints": keypoints, **counts})

    def without_keypoints(self) -> CocoPerson | None:
        """The person as COCO has it: a missing prediction is not an error, nor is one that matches this person.

        None if the box or the area is not known: then predictions cannot be compared with the person.
        """
        if not are_numbers(self.entry["bbox"], 4) or not are_numbers([self.entry.get("area")], 1):
            return None
        nothing = {"keypoints": [0] * 3 * KEYPOINTS, "num_keypoints": 0}
        return cast(CocoPerson, {**self.entry, **nothing, "iscrowd": self._whole("iscrowd", 0)})

    def _whole(self, name: str, default: int) -> int:
        """A count or a flag: a whole number, true or false, or digits; the default if the field is missing."""
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
    """Keypoints as one list; some tools write a list of x, y and flag for each keypoint."""
    if isinstance(keypoints, list) and all(isinstance(row, list) and len(row) == 3 for row in keypoints):
        return list(chain.from_iterable(keypoints))
    return keypoints
