"""Drawn scenes with several people, in several image sizes, drawn at run time from a seed, without files.

People stand next to each other and in front of each other. A person with fewer than eight visible keypoints is
annotated without keypoints: for COCO's metric it is neither an error to miss this person nor to detect it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from sandglass.datasets import KeypointDataset, Options, _drawn
from sandglass.vision import figures, scenes
from sandglass.vision.coco_format import CocoShape

KIND = KeypointDataset
class_names = None  # its images have no classes
SIZES = ((256, 256), (240, 288), (288, 240), (240, 320))  # height, width; the first is twice as frequent as the others
MINIMUM_KEYPOINTS = 8  # visible keypoints of a person that is annotated with keypoints, at least


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
    _drawn.refuse_files("synthetic-crowd", images, annotations, detections)
    return _drawn.load("synthetic-crowd", render, limit, split, seed)


def example(folder: Path) -> Options:
    """Options for a few images; this writes nothing."""
    return {"limit": 6}


@lru_cache(maxsize=256)  # 50 MB: drawing takes ten times as long as the use of an image
def render(index: int, split: str, seed: int) -> tuple[np.ndarray, list[CocoShape]]:
    """Image `index` of a split, (H, W, 3) uint8 RGB, and its people as COCO annotations without ids."""
    random = np.random.default_rng([seed, _drawn.SPLITS[split], index, len(SIZES)])
    size = SIZES[random.choice(len(SIZES), p=[0.4, 0.2, 0.2, 0.2])]
    image = scenes.background(random, size)
    return scenes.draw(random, image, _people(random, size), MINIMUM_KEYPOINTS)


def _people(random: np.random.Generator, size: tuple[int, int]) -> list[figures.Figure]:
    """One to five people next to each other, with some overlap; the nearest one (lowest in the image) is the last."""
    height, width = size
    count = int(random.choice([1, 2, 3, 4, 5], p=[0.1, 0.3, 0.3, 0.2, 0.1]))
    placed = []
    for slot in range(count):
        x = width * (slot + 0.5) / count + random.normal(0, 0.15 * width / count)
        tall = random.uniform(0.45, 0.85) * height
        foot = min(height - 4 + random.normal(0, 6), tall + 20 + random.uniform(0, height))
        placed.append(figures.random_figure(random, (x, foot), tall))
    return sorted(placed, key=lambda figure: float(figure.joints[:, 1].max()))
