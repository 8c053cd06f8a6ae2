"""The seam of datasets: each file is one source of samples and labels, or one file format.

Each file is a `DatasetModule`, which declares the kind of its datasets and loads one. A kind is a class in this module:
it is a `Dataset` and has the labels (also called truths) in the form that a task reads.
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
Conditions = Mapping[str, JsonValue]  # the conditions of a measurement, as a result states them
FOR_CALIBRATION = "for calibration, which needs no labels, leave out the name of the dataset"  # the end of some fixes


OwnT = TypeVar("OwnT")


class Dataset(Protocol):
    """The interface of all datasets.

    HOLDS     the contents of datasets of this kind, in words
    name      the name of the dataset's file, as a user writes it
    protocol  the name of the `dataset`, the `subset` and how it was drawn, `partial` if it is not the whole dataset,
              the source of `boxes` if there are any, and counts of samples that could not be used
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
        """Reads an image by its id: a new array, (H, W, 3) uint8 RGB. Raises DatasetError for a damaged file."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash: two datasets with the same fingerprint have the same samples and labels."""
        ...

    @classmethod
    def of_photos(cls: type[OwnT], name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> OwnT:
        """A dataset of images without labels, numbered from 0: enough for calibration and fidelity."""
        ...


@dataclass
class KeypointDataset:
    """Images with people.

    coco        the labels in COCO's format
    read        see `Dataset`
    protocol    see `Dataset`
    detections  boxes of a detector, which replace those of the labels
    """

    HOLDS: ClassVar[str] = "people with keypoints"

    name: str
    coco: CocoTruth
    read: Read
    protocol: Conditions
    detections: list[CocoBox] | None = None

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> KeypointDataset:
        """Photos without labels, with one box each, the whole image. Raises DatasetError for a damaged file."""
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
        """Ids of the images, in the order of the labels."""
        return [image["id"] for image in self.coco["images"]]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of labels and boxes."""
        content = json.dumps([self.name, self.coco, self.detections], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class TextDataset:
    """Pages with text.

    `texts` has, for the id of each image, the outline of each text, as points (x, y) in pixels, and whether the text is
    ignored. See `Dataset` for `read` and `protocol`.
    """

    HOLDS: ClassVar[str] = "pages with outlines of texts"

    name: str
    texts: Mapping[Id, list[AnnotatedText]]
    read: Read
    protocol: Conditions

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> TextDataset:
        """Photos without labels."""
        numbers: dict[Id, int] = {str(number): number for number in range(len(photos))}
        return cls(name, {key: [] for key in numbers}, lambda key: read(numbers[key]), protocol)

    @property
    def image_ids(self) -> list[Id]:
        """Ids of the images."""
        return list(self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the labels."""
        return hashlib.sha256(json.dumps([self.name, self.texts]).encode()).hexdigest()


@dataclass
class LabelledDataset:
    """Images with one class each.

    labels          the class of each image by id, from 0; None if it is unknown
    classes         the names of all classes; empty if only numbers are known
    images          the name of each image by id, for errors and the fingerprint
    read, protocol  see `Dataset`
    """

    HOLDS: ClassVar[str] = "images with one class each"

    name: str
    labels: Mapping[Id, int | None]
    classes: Sequence[str]
    images: Mapping[Id, str]
    read: Read
    protocol: Conditions

    @classmethod
    def of_photos(cls, name: str, photos: Sequence[Path], read: Read, protocol: Conditions) -> LabelledDataset:
        """Photos without labels."""
        names: dict[Id, str] = {number: photo.name for number, photo in enumerate(photos)}
        return cls(name, dict.fromkeys(names), (), names, read, protocol)

    @property
    def image_ids(self) -> list[Id]:
        """Ids of the images, in rising order."""
        return list(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the names and labels of images, and of the protocol, which has a hash of their files."""
        content = [self.name, self.protocol, [[i, self.images[i], label] for i, label in self.labels.items()]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Options(TypedDict, total=False):
    """The options with which a dataset is loaded (see `Load`)."""

    images: Path
    annotations: Path
    detections: Path
    limit: int
    split: str
    seed: int


DatasetT = TypeVar("DatasetT", bound=Dataset, covariant=True)


class Load(Protocol[DatasetT]):
    """The function of a dataset's file that loads it.

    images       folder or file with images
    annotations  file or folder with labels
    detections   file with the boxes of a detector
    limit        number of images, drawn at random with `seed`; from all classes in proportion if there are classes
    split        "train" or "test", for datasets that have both

    Raises DatasetError with the path for a missing or malformed file, and for an option that the dataset does not have.
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
    """The protocol of a file in this folder."""

    @property
    def KIND(self) -> type[DatasetT]:
        """The class of the datasets that `load` returns."""
        ...

    @property
    def load(self) -> Load[DatasetT]: ...

    @property
    def example(self) -> Callable[[Path], Options]:
        """Writes a few samples into a folder and returns the options with which `load` reads them.

        A dataset without files writes nothing and returns only a limit.
        """
        ...

    @property
    def class_names(self) -> Callable[[], Sequence[str]] | None:
        """The names of its classes in the order of labels; None without classes, or if only its files name them."""
        ...


CONTRACT = DatasetModule  # a plugin is compared with it


def load_dataset_module(name: str) -> DatasetModule[Dataset]:
    """The module of the dataset `name`. Raises InputError for an unknown name; the error lists the known ones."""
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
    """Load a dataset by name; see `Load` for the options and errors. Raises InputError for an unknown name."""
    return load_dataset_module(name).load(images, annotations, detections, limit, split, seed)


def subset(count: int, total: int, images: str, drawn: str) -> JsonObject:
    """The entries of a protocol for `count` of `total` images: all of them, or a part and how it was drawn.

    `images` is the word for them.
    """
    if count == total:
        return {"subset": f"all {total} {images}"}
    return {"subset": f"{count} of {total} {images}, {drawn}", "partial": True}


def of_kind(kind: type[Dataset]) -> list[str]:
    """Names of the datasets of a kind; broken plugins are left out."""
    return [name for name, module in discover.load_usable("datasets").items() if module.KIND is kind]
