"""The seam of datasets: one file is one place that samples and truths come from, or one format of files.

Each file defines, at module level:

    load(images, annotations, detections, limit, split, seed) -> dataset
                 every option has a default. `limit` is the number of images, drawn at random by the seed and by class
                 where there are classes. Raises DatasetError, naming the path, for a file that is missing or malformed
                 and for an option that the dataset does not have
    example(folder) -> options
                 writes a few samples into `folder` and returns the options with which `load` reads them; a dataset
                 that needs no files writes none and returns a limit only

`load` is annotated with the class that it returns, which is the kind of the dataset. A dataset has

    name         the file's, as a user writes it
    image_ids    ids of its images, in a stable order
    read(id)     the image, HWC uint8 RGB, the caller's own
    protocol     JSON-able: what the `dataset` is, how the `subset` was drawn, `partial` where it is not the whole,
                 where `boxes` come from where there are any, and counts of what could not be used
    fingerprint  a hash: two datasets with the same one have the same samples and truths

and the truths in the form that the tasks of its kind read. A kind defines

    HOLDS        what its datasets hold, in words
    TRUTHS       the attribute that has the truths
    of_photos(name, photos, read, protocol) -> dataset
                 images without truths: enough for calibration and for fidelity
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_type_hints

import numpy as np

from sandglass.core import discover
from sandglass.vision import coco17
from sandglass.vision.image import image_size

Read = Callable[[Any], np.ndarray]
FOR_CALIBRATION = "for calibration, which needs no truths, leave the name of the dataset out"  # what else may be done


@dataclass
class KeypointDataset:
    """Images with people.

    `coco` is the ground truth in COCO's format (images, annotations, categories); `read` returns an image by its id,
    HWC uint8 RGB; `protocol` says where the boxes come from and how the subset was drawn; `detections` are boxes in
    COCO's result format that replace the ground-truth ones.
    """

    HOLDS: ClassVar[str] = "people with keypoints"
    TRUTHS: ClassVar[str] = "coco"

    name: str
    coco: dict[str, Any]
    read: Callable[[int | str], np.ndarray]
    protocol: dict[str, Any]
    detections: list[dict[str, Any]] | None = None

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: dict[str, Any]) -> KeypointDataset:
        """Photos without truths; each is one box, which is all of it. Raises DatasetError for a file that is broken."""
        images, boxes = [], []
        for number, photo in enumerate(photos):
            height, width = image_size(photo)
            images.append({"id": number, "file_name": photo.name, "width": width, "height": height})
            box = [0.0, 0.0, float(width), float(height)]
            boxes.append({"image_id": number, "category_id": 1, "bbox": box, "score": 1.0})
        coco: dict[str, Any] = {"info": {}, "images": images, "annotations": [], "categories": [coco17.CATEGORY]}
        return cls(name, coco, read, {**protocol, "boxes": "whole images"}, boxes)

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images, in the order of the ground truth."""
        return [image["id"] for image in self.coco["images"]]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of truths and boxes: two datasets with the same one have the same samples."""
        content = json.dumps([self.name, self.coco, self.detections], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


Text = tuple[list[list[float]], bool]


@dataclass
class TextDataset:
    """Pages with text.

    `texts` has for each image's id the outline of every text, points x and y in pixels, and whether it is ignored;
    `read` returns an image by its id, HWC uint8 RGB; `protocol` says how the subset was drawn and what was left out.
    """

    HOLDS: ClassVar[str] = "pages with outlines of texts"
    TRUTHS: ClassVar[str] = "texts"

    name: str
    texts: dict[str, list[Text]]
    read: Callable[[str], np.ndarray]
    protocol: dict[str, Any]

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: dict[str, Any]) -> TextDataset:
        """Photos without truths."""
        numbers = {str(number): number for number in range(len(photos))}
        return cls(name, {key: [] for key in numbers}, lambda key: read(numbers[key]), protocol)

    @property
    def image_ids(self) -> list[str]:
        """Ids of the images."""
        return list(self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the truths."""
        return hashlib.sha256(json.dumps([self.name, self.texts]).encode()).hexdigest()


@dataclass
class LabelledDataset:
    """Images that show one thing each.

    `labels` maps an image's id to its class, from 0, or to None where that is not known; `classes` are the names of all
    classes, empty where only numbers are known; `images` maps the id to the image's name, for errors and the
    fingerprint; `read` and `protocol` as above.
    """

    HOLDS: ClassVar[str] = "images with a class each"
    TRUTHS: ClassVar[str] = "labels"

    name: str
    labels: Mapping[int, int | None]
    classes: Sequence[str]
    images: Mapping[int, str]
    read: Callable[[int], np.ndarray]
    protocol: dict[str, Any]

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: dict[str, Any]) -> LabelledDataset:
        """Photos without truths."""
        names = {number: photo.name for number, photo in enumerate(photos)}
        return cls(name, dict.fromkeys(names), (), names, read, protocol)

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images, rising."""
        return list(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images' names and labels, and of what the protocol says of their files."""
        content = [self.name, self.protocol, [[i, self.images[i], label] for i, label in self.labels.items()]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Dataset(Protocol):
    """What every dataset has, of whatever kind."""

    name: str
    protocol: dict[str, Any]

    @property
    def image_ids(self) -> list[int]: ...

    @property
    def read(self) -> Callable[[int], np.ndarray]: ...

    @property
    def fingerprint(self) -> str: ...


def load_dataset(name: str, **options: Any) -> Dataset:
    """Load a dataset by name; `options` are those of its file, such as images and annotations."""
    dataset: Dataset = discover.load("datasets", name).load(**options)
    return dataset


def subset(kept: int, total: int, images: str, drawn: str) -> dict[str, Any]:
    """What the protocol says of `kept` out of `total` `images`: all of them, or a part and how it was drawn."""
    if kept == total:
        return {"subset": f"all {total} {images}"}
    return {"subset": f"{kept} of {total} {images}, {drawn}", "partial": True}


def kind_of(name: str) -> type:
    """The class of a dataset, by the dataset's name; nothing is loaded."""
    kind: type = get_type_hints(discover.load("datasets", name).load)["return"]
    return kind


def of_kind(kind: type) -> list[str]:
    """Names of the datasets of a kind."""
    return [name for name in discover.names("datasets") if kind_of(name) is kind]
