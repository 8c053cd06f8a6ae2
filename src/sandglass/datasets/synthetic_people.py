"""Drawn people with exact keypoints: images are drawn at run time from a seed, and no files are needed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng

from sandglass.datasets import KeypointDataset, Options, _drawn
from sandglass.vision import figures, scenes
from sandglass.vision.coco_format import CocoShape

KIND = KeypointDataset
class_names = None  # its images have no classes
SIZE = (256, 320)  # height, width
MINIMUM_KEYPOINTS = 5  # visible keypoints of an annotated person, at least


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> KeypointDataset:
    """The first `limit` images of a split (default: 200 for test). The two splits have different figures.

    Raises DatasetError for paths, an unknown split, or a limit below 1.
    """
    _drawn.refuse_files("synthetic-people", images, annotations, detections)
    return _drawn.load("synthetic-people", render, limit, split, seed)


def example(folder: Path) -> Options:
    """Options for a few images; this writes nothing."""
    return {"limit": 6}


@lru_cache(maxsize=256)  # 63 MB: drawing takes ten times as long as the use of an image
def render(index: int, split: str, seed: int) -> tuple[np.ndarray, list[CocoShape]]:
    """Image `index` of a split, (H, W, 3) uint8 RGB, and its people as COCO annotations without ids."""
    random = default_rng([seed, _drawn.SPLITS[split], index])
    image = scenes.background(random, SIZE)
    image, people = scenes.draw(random, image, _people(random), MINIMUM_KEYPOINTS)
    return image, [person for person in people if person["num_keypoints"]]


def _people(random: Generator) -> list[figures.Figure]:
    """One to three people; the nearest one (the lowest in the image) is the last."""
    height, width = SIZE
    count = int(random.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    slots = random.permutation(count)
    placed = []
    for slot in slots:
        x = width * (slot + 0.5) / count + random.normal(0, 0.12 * width / count)
        tall = random.uniform(0.45, 0.88) * height
        foot = min(height - 6 + random.normal(0, 8), tall + 30 + random.uniform(0, height))
        placed.append(figures.random_figure(random, (x, min(foot, height + 12)), tall))
    return sorted(placed, key=lambda figure: float(figure.joints[:, 1].max()))
