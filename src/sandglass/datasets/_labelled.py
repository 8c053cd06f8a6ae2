"""Images with one label each, whatever files they come from: folders of classes, draws by class, what was left out."""

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
WHOLE = re.compile(r"\d{1,9}", re.ASCII)  # a class
SHOWN = 3  # names in a line that counts things


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

    `description` says what it is; `read` takes the places of its images.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "give 1 or more, or none for all")
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
    """Places of `limit` labels, rising: each class has its share of them to within one, its members drawn at random.

    A larger draw with the same seed holds the smaller one.
    """
    random, values = np.random.default_rng(seed), np.asarray(labels)
    places = np.argsort(values, kind="stable")
    order = np.empty(len(values))
    for members in np.split(places, np.flatnonzero(np.diff(values[places])) + 1):
        order[members] = (random.permutation(len(members)) + random.random()) / len(members)
    return sorted(int(i) for i in np.argsort(order, kind="stable")[:limit])


def class_folders(folder: Path, known: Sequence[str]) -> tuple[Listing, list[str]]:
    """Images in one folder a class, and the classes' names.

    Folders are numbered by their place in `known`, by themselves where their names are numbers, else alphabetically. A
    class folder that is empty or cannot be read is counted in the notes, as are images next to the folders. Raises
    DatasetError where no image is left, and where only some of the folders are `known`.
    """
    names, loose = _content(folder)
    numbers, classes = _number(folder, names, known)
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
            f"{folder} has no image in any folder of a class",
            f"give one folder of images a class; {FOR_CALIBRATION}",
        )
    listing.notes |= counted("empty_class_folders", empty)
    listing.notes |= counted("unreadable_class_folders", unreadable)
    listing.notes |= counted("images_without_label", loose)
    return listing, classes


def reader(folder: Path, images: Sequence[str]) -> Read:
    """Reads an image file by its place."""
    return lambda index: read_image(folder / images[int(index)])


def counted(what: str, names: Sequence[str]) -> dict[str, str]:
    """A note that counts things and shows some; none where there are none."""
    if not names:
        return {}
    more = ", ..." if len(names) > SHOWN else ""
    return {what: f"{len(names)} ({', '.join(names[:SHOWN])}{more})"}


def _content(folder: Path) -> tuple[list[str], list[str]]:
    """Names of a folder's folders, but for hidden ones, and of its images."""
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
    """Labels of folders whose names are numbers."""
    numbers = {name: int(name) for name in names}
    if twice := [name for name in names if list(numbers.values()).count(numbers[name]) > 1]:
        raise DatasetError(f"{folder} has several folders of class {numbers[twice[0]]}: {', '.join(twice[:SHOWN])}",
                           "give each class one folder")  # fmt: skip
    return numbers


def _number(folder: Path, names: Sequence[str], known: Sequence[str]) -> tuple[Mapping[str, int], list[str]]:
    """Labels by folder, and the names of all classes."""
    if all(WHOLE.fullmatch(name) for name in names):
        return _by_number(folder, names), []
    strangers = [name for name in names if name not in set(known)]
    if 0 < len(strangers) < len(names):
        raise DatasetError(
            f"{folder} has {len(strangers)} folders that are no class, such as {strangers[0]}, among {len(names)}",
            "take them out",
        )
    order = names if strangers else known
    places = {name: i for i, name in enumerate(order)}
    return {name: places[name] for name in names}, list(order)
