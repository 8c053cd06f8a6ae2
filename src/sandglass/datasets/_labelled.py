"""Shared by datasets of images with one label each: folders of classes, subsets, and counts of images left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.core.json_values import JsonObject
from sandglass.datasets import FOR_CALIBRATION, LabelledDataset, Read, subset
from sandglass.vision.image import read_image

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WHOLE = re.compile(r"\d{1,9}", re.ASCII)  # the number of a class
SHOWN = 3  # names in a note, at most


@dataclass
class Listing:
    """Images by name and their labels, in a stable order; `notes` go into the protocol."""

    images: list[str]
    labels: list[int]
    notes: JsonObject = field(default_factory=dict)


def labelled(
    name: str,
    description: str,
    listing: Listing,
    classes: Sequence[str],
    read: Read,
    limit: int | None,
    seed: int,
) -> LabelledDataset:
    """The dataset of a listing, or of `limit` images of it.

    `description` follows the name in the protocol; `read` takes positions in the listing. Raises DatasetError for a
    limit below 1.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "use 1 or more, or no limit for all")
    total = len(listing.labels)
    chosen = range(total) if limit is None or limit >= total else stratified(listing.labels, limit, seed)
    part = subset(len(chosen), total, "images", f"drawn by class with seed {seed}")
    return LabelledDataset(
        name,
        {i: listing.labels[i] for i in chosen},
        classes,
        {i: listing.images[i] for i in chosen},
        read,
        {"dataset": f"{name}, {description}", **part, **listing.notes},
    )


def stratified(labels: Sequence[int], limit: int, seed: int) -> list[int]:
    """The positions of `limit` labels, in rising order: a random subset with each class in proportion, to within one.

    A larger subset with the same seed contains the smaller one.
    """
    random, values = np.random.default_rng(seed), np.asarray(labels)
    by_class = np.argsort(values, kind="stable")
    order = np.empty(len(values))
    for members in np.split(by_class, np.flatnonzero(np.diff(values[by_class])) + 1):
        # The members of a class get random places at equal distances between 0 and 1.
        order[members] = (random.permutation(len(members)) + random.random()) / len(members)
    return sorted(int(i) for i in np.argsort(order, kind="stable")[:limit])


def class_folders(folder: Path, known_names: Sequence[str]) -> tuple[Listing, list[str]]:
    """The images in a folder with one folder for each class, and the names of the classes.

    The label of a folder is its position in `known_names`, or its name if all names are numbers, or its position in
    alphabetical order. Class folders that are empty or cannot be read are counted in the notes, and so are images next
    to the folders. Raises DatasetError if no image is left, or if only some of the folders are in `known_names`.
    """
    names, loose = _content(folder)
    numbers, classes = _number(folder, names, known_names)
    listing, empty, unreadable = Listing([], []), [], []
    for name in sorted(names, key=lambda name: numbers[name]):
        try:
            files = sorted(_images(folder / name))
        except OSError:
            unreadable.append(name)
            continue
        if not files:
            empty.append(name)
        listing.images += [f"{name}/{file}" for file in files]
        listing.labels += [numbers[name]] * len(files)
    if not listing.images:
        raise DatasetError(
            f"{folder} has no folder of a class with images",
            f"give one folder of images for each class; {FOR_CALIBRATION}",
        )
    listing.notes |= counted("empty_class_folders", empty)
    listing.notes |= counted("unreadable_class_folders", unreadable)
    listing.notes |= counted("images_without_label", loose)
    return listing, classes


def reader(folder: Path, images: Sequence[str]) -> Read:
    """A function that reads an image file by its position in `images`."""
    return lambda index: read_image(folder / images[int(index)])


def counted(what: str, names: Sequence[str]) -> dict[str, str]:
    """A note with the number of `names` and the first of them, by the key `what`; empty if there are no names."""
    if not names:
        return {}
    more = ", ..." if len(names) > SHOWN else ""
    return {what: f"{len(names)} ({', '.join(names[:SHOWN])}{more})"}


def _content(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders in a folder, without hidden ones, and of its images."""
    if not folder.is_dir():
        raise DatasetError(f"there is no folder of images {folder}", "check the path")
    try:
        folders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "._")
        return folders, sorted(_images(folder))
    except OSError as error:
        raise DatasetError(f"cannot read {folder}: {error.strerror}", "check its permissions") from error


def _images(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if entry.name.lower().endswith(IMAGES) and entry.is_file())


def _by_number(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """The labels of folders whose names are numbers."""
    numbers = {name: int(name) for name in names}
    if repeated := [name for name in names if list(numbers.values()).count(numbers[name]) > 1]:
        raise DatasetError(
            f"{folder} has several folders of class {numbers[repeated[0]]}: {', '.join(repeated[:SHOWN])}",
            "use one folder for each class",
        )
    return numbers


def _number(folder: Path, names: Sequence[str], known_names: Sequence[str]) -> tuple[Mapping[str, int], list[str]]:
    """The labels by folder, and the names of all classes."""
    if all(WHOLE.fullmatch(name) for name in names):
        return _by_number(folder, names), []
    unknown = [name for name in names if name not in set(known_names)]
    if 0 < len(unknown) < len(names):
        raise DatasetError(
            f"{len(unknown)} of {len(names)} folders in {folder} are not names of classes, such as {unknown[0]}",
            "move them to another place",
        )
    order = names if unknown else known_names
    labels = {name: i for i, name in enumerate(order)}
    return {name: labels[name] for name in names}, list(order)
