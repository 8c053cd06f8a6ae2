"""The seam of datasets: one file is one place that samples and truths come from, or one format of files.

Each file is a `DatasetModule`: it says which kind of dataset it loads, and loads one. A kind is a class in this module
that is a `Dataset` and has the truths in the form that the tasks of its kind read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, TypedDict, TypeVar, cast

import numpy as np

from sandglass.core import discover
from sandglass.core.image_ids import Id
from sandglass.core.json_values import JsonObject, JsonValue
from sandglass.vision import coco17
from sandglass.vision.coco_format import CocoBox, CocoImage, CocoTruth
from sandglass.vision.image import image_size
from sandglass.vision.polygon import AnnotatedText

Read = Callable[[Id], np.ndarray]
Conditions = Mapping[str, JsonValue]  # what a result says of what was measured
FOR_CALIBRATION = "for calibration, which needs no truths, leave the name of the dataset out"  # what else may be done


OwnT = TypeVar("OwnT")


class Dataset(Protocol):
    """What every dataset has, of whatever kind.

    `HOLDS` says in words what the datasets of a kind hold. `name` is the file's, as a user writes it. `protocol` names
    the `dataset`, how the `subset` was drawn, `partial` where it is not the whole, where `boxes` come from where there
    are any, and counts of what could not be used.
    """

    HOLDS: ClassVar[str]

    @property
    def name(self) -> str: ...

    @property
    def protocol(self) -> Conditions: ...

    @property
    def image_ids(self) -> Sequence[Id]:
        """Ids of the images, in a stable order."""
        ...

    @property
    def read(self) -> Read:
        """Reads an image by its id: HWC uint8 RGB, the caller's own. Raises DatasetError for a broken file."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash: two datasets with the same one have the same samples and truths."""
        ...

    @classmethod
    def of_photos(cls: type[OwnT], name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> OwnT:
        """Images without truths, numbered from 0: enough for calibration and for fidelity."""
        ...


@dataclass
class KeypointDataset:
    """Images with people.

    `coco` is the ground truth in COCO's format; `read` returns an image by its id, HWC uint8 RGB; `protocol` says where
    the boxes come from and how the subset was drawn; `detections` are boxes that replace the ground-truth ones.
    """

    HOLDS: ClassVar[str] = "people with keypoints"

    name: str
    coco: CocoTruth
    read: Read
    protocol: Conditions
    detections: list[CocoBox] | None = None

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> KeypointDataset:
        """Photos without truths; each is one box, which is all of it. Raises DatasetError for a file that is broken."""
        images: list[CocoImage] = []
        boxes: list[CocoBox] = []
        for number, photo in enumerate(photos):
            height, width = image_size(photo)
            images.append({"id": number, "file_name": photo.name, "width": width, "height": height})
            box = [0.0, 0.0, float(width), float(height)]
            boxes.append({"image_id": number, "category_id": 1, "bbox": box, "score": 1.0})
        coco: CocoTruth = {"info": {}, "images": images, "annotations": [], "categories": [coco17.CATEGORY]}
        return cls(name, coco, read, {**protocol, "boxes": "whole images"}, boxes)

    @property
    def image_ids(self) -> list[Id]:
        """Ids of the images, in the order of the ground truth."""
        return [image["id"] for image in self.coco["images"]]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of truths and boxes: two datasets with the same one have the same samples."""
        content = json.dumps([self.name, self.coco, self.detections], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class TextDataset:
    """Pages with text.

    `texts` has for each image's id the outline of every text, points x and y in pixels, and whether it is ignored;
    `read` returns an image by its id, HWC uint8 RGB; `protocol` says how the subset was drawn and what was left out.
    """

    HOLDS: ClassVar[str] = "pages with outlines of texts"

    name: str
    texts: Mapping[Id, list[AnnotatedText]]
    read: Read
    protocol: Conditions

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> TextDataset:
        """Photos without truths."""
        numbers: dict[Id, int] = {str(number): number for number in range(len(photos))}
        return cls(name, {key: [] for key in numbers}, lambda key: read(numbers[key]), protocol)

    @property
    def image_ids(self) -> list[Id]:
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
    fingerprint; `read` and `protocol` are those of every dataset.
    """

    HOLDS: ClassVar[str] = "images with a class each"

    name: str
    labels: Mapping[Id, int | None]
    classes: Sequence[str]
    images: Mapping[Id, str]
    read: Read
    protocol: Conditions

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> LabelledDataset:
        """Photos without truths."""
        names: dict[Id, str] = {number: photo.name for number, photo in enumerate(photos)}
        return cls(name, dict.fromkeys(names), (), names, read, protocol)

    @property
    def image_ids(self) -> list[Id]:
        """Ids of the images, rising."""
        return list(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images' names and labels, and of what the protocol says of their files."""
        content = [self.name, self.protocol, [[i, self.images[i], label] for i, label in self.labels.items()]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Options(TypedDict, total=False):
    """What a dataset is loaded with (see `DatasetModule.load`)."""

    images: Path
    annotations: Path
    detections: Path
    limit: int
    split: str
    seed: int


DatasetT = TypeVar("DatasetT", bound=Dataset, covariant=True)


class Load(Protocol[DatasetT]):
    """The function of a dataset's file that loads it.

    `limit` is the number of images, drawn at random by the seed and by class where there are classes. Raises
    DatasetError, naming the path, for a file that is missing or malformed and for an option that the dataset does not
    have.
    """

    def __call__(
        self,
        images: Path | None = None,
        annotations: Path | None = None,
        detections: Path | None = None,
        limit: int | None = None,
        split: str = "test",
        seed: int = 0,
    ) -> DatasetT: ...


class DatasetModule(Protocol[DatasetT]):
    """What a file in this folder defines."""

    @property
    def KIND(self) -> type[DatasetT]:
        """The class of the datasets that `load` returns."""
        ...

    @property
    def load(self) -> Load[DatasetT]: ...

    @property
    def example(self) -> Callable[[Path], Options]:
        """Writes a few samples into a folder and returns the options with which `load` reads them.

        A dataset that needs no files writes none and returns a limit only.
        """
        ...

    @property
    def class_names(self) -> Callable[[], Sequence[str]] | None:
        """The names of its classes in the order of labels; None without classes, or if only its files name them."""
        ...


CONTRACT = DatasetModule  # a plugin is compared with it


def load_dataset_module(name: str) -> DatasetModule[Dataset]:
    """The module of the dataset `name`. Raises InputError that lists the known ones."""
    return cast(DatasetModule[Dataset], discover.load("datasets", name))


def load_dataset(
    name: str,
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> Dataset:
    """Load a dataset by name (see `Load` for the options). Raises InputError for an unknown name."""
    return load_dataset_module(name).load(images, annotations, detections, limit, split, seed)


def subset(count: int, total: int, images: str, drawn: str) -> JsonObject:
    """What the protocol says of `count` out of `total` `images`: all of them, or a part and how it was drawn."""
    if count == total:
        return {"subset": f"all {total} {images}"}
    return {"subset": f"{count} of {total} {images}, {drawn}", "partial": True}


def of_kind(kind: type[Dataset]) -> list[str]:
    """Names of the datasets of a kind; broken plugins are left out."""
    return [name for name, module in discover.load_usable("datasets").items() if module.KIND is kind]
