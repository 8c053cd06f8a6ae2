"""ImageNet's validation set, or images in its layout: one folder per class, or one folder and a file of labels.

A label is the position of the class in the order of WordNet ids, which is the order of outputs of published networks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.core.files import atomic_file, sha256
from sandglass.core.text_lines import read_lines
from sandglass.datasets import LabelledDataset, Options
from sandglass.datasets._labelled import IMAGES, Listing, class_folders, counted, labelled, reader
from sandglass.vision.image import write_image

KIND = LabelledDataset
Lines = Sequence[tuple[int, str]]

WHOLE = re.compile(r"\d{1,9}", re.ASCII)
FIX = "correct the file"
TABLE = Path(__file__).with_name("imagenet_classes.txt")


@lru_cache
def table() -> tuple[tuple[str, int, str], ...]:
    """WordNet id, ILSVRC2012_ID (1 to 1000, the order of the devkit) and name of each class, in the order of labels."""
    rows = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines()[1:])
    return tuple((wordnet, int(number), name.replace("_", " ")) for wordnet, number, name in rows)


def class_names() -> tuple[str, ...]:
    """The names of the 1000 classes."""
    return tuple(name for _, _, name in table())


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> LabelledDataset:
    """Read the labels, and draw `limit` images from all classes with `seed` if it is given.

    Without `annotations` each folder in `images` is a class, named by its WordNet id; folders with other names are
    classes in alphabetical order. `annotations` is a file with labels for one folder of images: `name label` in each
    line, as in mmpretrain; or the ground truth of the devkit, where line k has the ILSVRC2012_ID of image k. Images
    without a label and labels without an image are counted in the protocol. `split` has no effect: the files decide it.
    Raises DatasetError if something is missing or malformed, or if no image is left.
    """
    if detections is not None:
        raise DatasetError("imagenet has no detections", "leave them out")
    if images is None:
        raise DatasetError("imagenet needs images", "give the folder")
    if annotations is None:
        listing, folders = class_folders(images, [wordnet for wordnet, _, _ in table()])
        other = bool(folders) and folders[0] != table()[0][0]  # classes that are not ImageNet's
        classes = tuple(folders) if other else class_names()
        order = f", {len(folders)} in alphabetical order" if other else ""
        description = f"{images.name}, one folder per class{order}"
    else:
        listing, classes = _flat(images, annotations), class_names()
        description = f"{annotations.name} ({sha256(annotations)[:8]})"
    return labelled("imagenet", description, listing, classes, reader(images, listing.images), limit, seed)


def example(folder: Path) -> Options:
    """Write a few colored images and their labels."""
    random = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(6)]
    for name in names:
        write_image(folder / "images" / name, random.integers(0, 256, (40, 48, 3), np.uint8))
    with atomic_file(folder / "labels.txt") as temporary:
        temporary.write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)), encoding="utf-8")
    return {"images": folder / "images", "annotations": folder / "labels.txt"}


def _flat(folder: Path, annotations: Path) -> Listing:
    """The images of a folder with the labels in a file."""
    lines = read_lines(annotations, DatasetError)
    if not lines:
        raise DatasetError(f"{annotations} has no labels", "give a file of labels")
    if not folder.is_dir():
        raise DatasetError(f"there is no folder of images {folder}", "check the path")
    present = _files(folder)
    listing = Listing([], [])
    by_number = all(WHOLE.fullmatch(line) for _, line in lines)
    labels = (_numbered if by_number else _named)(lines, present, annotations, listing)
    listing.images = [name for name in labels if name in present]
    if not listing.images:
        raise DatasetError(f"{folder} has none of the {len(lines)} images of {annotations}", "check both paths")
    listing.labels = [labels[name] for name in listing.images]
    listing.notes |= counted("images_without_label", sorted(present - labels.keys()))
    listing.notes |= counted("labels_without_image", [name for name in labels if name not in present])
    return listing


def _files(folder: Path) -> set[str]:
    """The image files in a folder and in the folders inside it, as relative paths with slashes."""
    files = set()
    for place, _, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        files |= {(inside / name).as_posix() for name in names if name.lower().endswith(IMAGES)}
    return files


def _named(lines: Lines, present: set[str], path: Path, listing: Listing) -> dict[str, int]:
    """The labels by image, from lines with name and label. Repeated lines are counted in the notes of `listing`."""
    labels: dict[str, tuple[int, int]] = {}
    repeated = []
    for number, line in lines:
        name, label = [*line.rsplit(maxsplit=1), ""][:2]
        if not WHOLE.fullmatch(label):
            raise DatasetError(f"{path}, line {number}: {line[:80]!r} is not an image and its label", FIX)
        first, first_label = labels.setdefault(name, (number, int(label)))
        if first_label != int(label):
            raise DatasetError(
                f"{path}, line {number}: {name} already has the label {first_label} in line {first}", FIX
            )
        repeated += [name] if first != number else []
    _in_range(path, list(labels.values()), 0)
    listing.notes |= counted("labels_listed_twice", repeated)
    return {name: label for name, (_, label) in labels.items()}


def _numbered(lines: Lines, present: set[str], path: Path, listing: Listing) -> dict[str, int]:
    """The labels by image, from the ground truth of the devkit: line k belongs to the image whose name ends in k.

    Images with the same number are counted in the notes of `listing` and left out, because the label is ambiguous.
    """
    if empty := [k for k, (number, _) in enumerate(lines, 1) if number != k]:
        raise DatasetError(f"{path}, line {empty[0]} is empty, expected the label of image {empty[0]}", FIX)
    ids = [(number, int(line)) for number, line in lines]
    _in_range(path, ids, 1)
    label = {number: i for i, (_, number, _) in enumerate(table())}
    names: dict[int, list[str]] = {}
    for name in sorted(present):
        if match := re.search(r"(\d+)\.\w+$", name):
            names.setdefault(int(match[1]), []).append(name)
    ambiguous = {k for k, same in names.items() if len(same) > 1}
    listing.notes |= counted("images_of_one_number", [name for k in sorted(ambiguous) for name in names[k]])
    return {names.get(k, [f"image {k}"])[0]: label[class_id] for k, class_id in ids if k not in ambiguous}


def _in_range(path: Path, labels: Sequence[tuple[int, int]], first: int) -> None:
    """Raise DatasetError for labels, each with its line, that are not in the table."""
    last = first + len(table()) - 1
    if wrong := [(number, label) for number, label in labels if not first <= label <= last]:
        raise DatasetError(
            f"{path}: {len(wrong)} of {len(labels)} labels are out of range, the first is {wrong[0][1]} in line "
            f"{wrong[0][0]}, expected {first} to {last}",
            "use the labels of ImageNet-1k",
        )
