"""Drawn shapes of ten kinds, for classification: images are drawn at run time from a seed, and no files are needed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.datasets import LabelledDataset, Options
from sandglass.datasets._labelled import Listing, labelled

KIND = LabelledDataset
CLASSES = ("bar", "circle", "cross", "dots", "frame", "moon", "ring", "square", "star", "triangle")
SIDE = 192  # of an image, in pixels
SPLITS = {"train": 1, "test": 2}
IMAGES = {"train": 2000, "test": 400}


def class_names() -> tuple[str, ...]:
    """The names of the ten classes."""
    return CLASSES


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> LabelledDataset:
    """A split (400 images for test), or `limit` images of it from all classes; `seed` draws the shapes and the images.

    Raises DatasetError for paths, an unknown split, or a limit below 1.
    """
    if any(option is not None for option in (images, annotations, detections)):
        raise DatasetError("synthetic-shapes is drawn at run time and takes no files", "leave out the paths")
    if split not in SPLITS:
        raise DatasetError(f"synthetic-shapes has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    count = IMAGES[split]
    listing = Listing([f"{split}-{i}" for i in range(count)], [i % len(CLASSES) for i in range(count)])
    description = f"{split} split, seed {seed}"
    return labelled(
        "synthetic-shapes", description, listing, CLASSES, lambda i: render(int(i), split, seed), limit, seed
    )


def example(folder: Path) -> Options:
    """Options for a few images; this writes nothing."""
    return {"limit": 6}


def render(index: int, split: str, seed: int) -> np.ndarray:
    """Image `index` of a split, (H, W, 3) uint8 RGB: a shape of the class `index` modulo ten on a noisy background."""
    random = np.random.default_rng([seed, SPLITS[split], index])
    ground, colour = random.integers(0, 256, (2, 3))
    while np.abs(ground - colour).sum() < 150:
        colour = random.integers(0, 256, 3)
    size = float(random.uniform(0.22, 0.38)) * SIDE
    centre = random.uniform(1.1 * size, SIDE - 1.1 * size, 2)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    _draw(mask, CLASSES[index % len(CLASSES)], centre, size, float(random.uniform(0, 2 * np.pi)))
    share = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None] / 255
    noise = random.normal(0, random.uniform(2, 20), (SIDE, SIDE, 3))
    return np.clip(ground * (1 - share) + colour * share + noise, 0, 255).astype(np.uint8)


def _draw(mask: np.ndarray, name: str, centre: np.ndarray, size: float, turn: float) -> None:
    """Draw a shape with the half width `size`, rotated by `turn` in radians, into a mask with the value 255."""
    middle = (round(float(centre[0])), round(float(centre[1])))
    whole, third = round(size), round(size / 3)

    def corners(radii: list[float]) -> np.ndarray:
        angles = turn + np.arange(len(radii)) * 2 * np.pi / len(radii)
        return np.round(centre + np.stack([np.cos(angles), np.sin(angles)], 1) * np.array(radii)[:, None]).astype(int)

    square = corners([size] * 4)
    if name in ("circle", "moon", "ring"):
        cv2.circle(mask, middle, whole, 255, third if name == "ring" else -1)
    if name == "moon":
        bite = np.round(centre + size * 0.7 * np.array([np.cos(turn), np.sin(turn)])).astype(int)
        cv2.circle(mask, (int(bite[0]), int(bite[1])), whole, 0, -1)
    if name in ("square", "frame"):
        cv2.fillPoly(mask, [square], 255)
    if name == "frame":
        cv2.fillPoly(mask, [corners([size * 0.6] * 4)], 0)
    if name == "triangle":
        cv2.fillPoly(mask, [corners([size] * 3)], 255)
    if name == "star":
        cv2.fillPoly(mask, [corners([size, size * 0.4] * 5)], 255)
    if name in ("bar", "cross"):
        for a, b in ((0, 2), (1, 3))[: 2 if name == "cross" else 1]:
            cv2.line(mask, square[a].tolist(), square[b].tolist(), 255, third)
    if name == "dots":
        for place in corners([size * 0.75] * 5):
            cv2.circle(mask, place.tolist(), round(size / 4), 255, -1)
