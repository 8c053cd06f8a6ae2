"""A folder of photos without labels, as a dataset of any kind: enough for calibration and fidelity."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TypeVar

from sandglass.core.errors import DatasetError
from sandglass.datasets import Dataset, subset
from sandglass.vision.image import read_image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DatasetT = TypeVar("DatasetT", bound=Dataset)


def load_photos(kind: type[DatasetT], folder: Path, limit: int | None = None, seed: int = 0) -> DatasetT:
    """A dataset of `kind` (a class of `sandglass.datasets`) with the images in `folder` and in the folders inside it.

    `limit` images are drawn with `seed` if it is given. Raises DatasetError if `folder` is missing, is not a folder, or
    has no images.
    """
    photos = find_photos(folder)
    drawn = sorted(random.Random(seed).sample(photos, min(limit or len(photos), len(photos))))
    part = subset(len(drawn), len(photos), "images", f"drawn by seed {seed}")
    protocol = {"dataset": f"photos, {folder.name} without annotations", **part}
    return kind.of_photos("photos", drawn, lambda number: read_image(drawn[int(number)]), protocol)


def find_photos(folder: Path) -> list[Path]:
    """The image files in a folder and in the folders inside it, sorted, without hidden ones."""
    if not folder.is_dir():
        problem = f"{folder} is a file" if folder.exists() else f"there is no folder of images {folder}"
        raise DatasetError(problem, "give a folder of images, or also the name of the dataset that the file belongs to")
    photos = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        photos += [Path(place) / name for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    if not photos:
        raise DatasetError(f"{folder} has no images", f"images are files that end in {', '.join(SUFFIXES)}")
    return sorted(photos)
