"""Shared by the drawn datasets: splits without an end, in which each image is drawn from its number when it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.datasets import Conditions, KeypointDataset
from sandglass.vision import coco17
from sandglass.vision.coco_format import CocoShape, CocoTruth

SPLITS = {"train": 1, "test": 2}
IMAGES = {"train": 6000, "test": 200}
Render = Callable[[int, str, int], tuple[np.ndarray, list[CocoShape]]]


def refuse_files(name: str, *options: Path | None) -> None:
    """Raise DatasetError if a path is given."""
    if any(option is not None for option in options):
        raise DatasetError(f"{name} is drawn at run time and takes no files", "leave out the paths")


def load(name: str, render: Render, limit: int | None, split: str, seed: int) -> KeypointDataset:
    """The first `limit` images of a split; `render` draws an image and its people from its number, split and seed.

    Raises DatasetError for an unknown split and for a limit below 1.
    """
    if split not in SPLITS:
        raise DatasetError(f"{name} has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "use 1 or more, or no limit for the whole split")
    count = IMAGES[split] if limit is None else limit
    coco: CocoTruth = {"images": [], "annotations": [], "categories": [coco17.CATEGORY]}
    for index in range(count):
        image, people = render(index, split, seed)
        height, width = image.shape[:2]
        coco["images"].append({"id": index, "file_name": f"{split}-{index}", "height": height, "width": width})
        for person in people:
            coco["annotations"].append({"id": len(coco["annotations"]) + 1, "image_id": index, **person})
    protocol: Conditions = {"dataset": f"{name}, {split} split, seed {seed}", "boxes": "ground truth",
                "subset": f"first {count} images", **({"partial": True} if count < IMAGES[split] else {})}  # fmt: skip
    return KeypointDataset(name, coco, lambda index: render(int(index), split, seed)[0].copy(), protocol)
