"""ImageNet's validation set, or images in its layout: a folder a class, or one folder and a file of labels.

Labels are places in the order of WordNet ids, which is that of every published network's outputs.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.datasets import LabelledDataset
from sandglass.datasets._labelled import IMAGES, Found, class_folders, counted, labelled, reader
from sandglass.errors import DatasetError
from sandglass.files import atomic_file, sha256
from sandglass.reading import read_text
from sandglass.vision.image import write_image

TABLE = Path(__file__).with_name("imagenet_classes.txt")


@lru_cache
def table() -> tuple[tuple[str, int, str], ...]:
    """WordNet id, ILSVRC2012_ID (1 to 1000, the devkits' own order) and name of each class, in the order of labels."""
    rows = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines()[1:])
    return tuple((wordnet, int(number), name.replace("_", " ")) for wordnet, number, name in rows)


def class_names() -> tuple[str, ...]:
    """Names of the 1000 classes."""
    return tuple(name for _, _, name in table())


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> LabelledDataset:
    """Read the labels, and draw `limit` images by class with `seed` where it is given.

    Without `annotations` every folder in `images` is a class, named by its WordNet id; folders with other names are
    classes in alphabetical order. `annotations` is a file of labels for a flat folder: `name label` in each line, as
    mmpretrain has it, or the devkit's ground truth, an ILSVRC2012_ID in each line for the image of that number. Images
    without a label and labels without an image are counted in the protocol. `split` does not matter here: the files
    say it. Raises DatasetError for what is missing or malformed, and where nothing is left.
    """
    if detections is not None:
        raise DatasetError("imagenet has no detections", "leave them out")
    if images is None:
        raise DatasetError("imagenet needs images", "give the folder")
    if annotations is None:
        found, folders = class_folders(images, [wordnet for wordnet, _, _ in table()])
        own = bool(folders) and folders[0] != table()[0][0]
        classes = tuple(folders) if own else class_names()
        told = f"{images.name}, a folder a class" + (f", {len(folders)} in alphabetical order" if own else "")
    else:
        found, classes = _flat(images, annotations), class_names()
        told = f"{annotations.name} ({sha256(annotations)[:8]})"
    return labelled("imagenet", told, found, classes, reader(images, found.images), limit, seed)


def example(folder: Path) -> dict[str, Any]:
    """Write a few coloured images and their labels."""
    random = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(6)]
    for name in names:
        write_image(folder / "images" / name, random.integers(0, 256, (40, 48, 3), np.uint8))
    with atomic_file(folder / "labels.txt") as temporary:
        temporary.write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)), encoding="utf-8")
    return {"images": folder / "images", "annotations": folder / "labels.txt"}


def _flat(folder: Path, annotations: Path) -> Found:
    """The labelled images of a folder."""
    lines = _lines(annotations)
    if not folder.is_dir():
        raise DatasetError(f"there is no folder of images {folder}", "check the path")
    present = _files(folder)
    by_number = all(_is_number(line.strip()) for line in lines)
    labels = _numbered(lines, present, annotations) if by_number else _named(lines, annotations)
    images = [name for name in labels if name in present]
    if not images:
        raise DatasetError(f"{folder} has none of the {len(lines)} images of {annotations}", "check both paths")
    found = Found(images, [labels[name] for name in images])
    found.notes |= counted("images_without_label", sorted(present - labels.keys()))
    found.notes |= counted("labels_without_image", [name for name in labels if name not in present])
    return found


def _lines(path: Path) -> list[str]:
    lines = read_text(path, DatasetError).strip().splitlines()
    if not lines:
        raise DatasetError(f"{path} has no labels", "give a file of labels")
    return lines


def _is_number(text: str) -> bool:
    """Whether a text is a label: a few digits, and not such as only Unicode calls so."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _files(folder: Path) -> set[str]:
    """Image files of a folder and those in it, relative, with slashes."""
    found = set()
    for place, _, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        found |= {(inside / name).as_posix() for name in names if name.lower().endswith(IMAGES)}
    return found


def _named(lines: list[str], path: Path) -> dict[str, int]:
    """Labels by image, from lines of name and label."""
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name, label = [*line.rsplit(maxsplit=1), "", ""][:2]
        if not _is_number(label):
            raise DatasetError(f"{path}, line {number}: {line[:80]!r} is not an image and its label", "mend the file")
        if name in labels:
            raise DatasetError(f"{path}, line {number}: {name} has a label already", "mend the file")
        labels[name] = int(label)
    _in_range(path, list(labels.values()), 0)
    return labels


def _numbered(lines: list[str], present: set[str], path: Path) -> dict[str, int]:
    """Labels by image, from the devkit's ground truth: line k is for the image whose name ends in the number k."""
    ids = [int(line) for line in lines]
    _in_range(path, ids, 1)
    label = {number: i for i, (_, number, _) in enumerate(table())}
    names = {int(match[1]): name for name in sorted(present) if (match := re.search(r"(\d+)\.\w+$", name))}
    return {names.get(k, f"image {k}"): label[number] for k, number in enumerate(ids, 1)}


def _in_range(path: Path, labels: list[int], first: int) -> None:
    last = first + len(table()) - 1
    if wrong := [i for i, label in enumerate(labels) if not first <= label <= last]:
        raise DatasetError(
            f"{path}: {len(wrong)} of {len(labels)} labels are out of range, the first is {labels[wrong[0]]} in line "
            f"{wrong[0] + 1}, expected {first} to {last}",
            "use the labels of ImageNet-1k",
        )
