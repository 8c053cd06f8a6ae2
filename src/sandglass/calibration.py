"""The calibration set: the samples that activation ranges are read on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from sandglass import discover
from sandglass.card import Card
from sandglass.errors import DatasetError
from sandglass.shapes import Size


@dataclass(frozen=True)
class Calibration:
    """Where activation ranges are read: `size` samples of `dataset`, drawn by `seed`, thresholds by `method`."""

    dataset: Any
    size: int = 64
    method: str = "kl"
    seed: int = 0


def calibration_inputs(
    card: Card, calibration: Calibration, shape: Size | None = None, wider: bool = False
) -> list[tuple[np.ndarray, Any]]:
    """The calibration set: `size` prepared inputs, each (1, 3, H, W) float32, drawn from the dataset by the seed.

    They have the card's size, or `shape`. With each comes what the task needs to decode its outputs. With `wider` the
    same samples follow with more around them, where the task's are parts of images.
    """
    task = discover.load("tasks", card.task)
    samples = task.samples(calibration.dataset)
    if not samples:
        raise DatasetError("the calibration set is empty", "give images with annotated samples")
    chosen = random.Random(calibration.seed).sample(samples, min(calibration.size, len(samples)))
    chosen.sort(key=lambda sample: sample.index)
    if wider and hasattr(task, "wider"):
        chosen += [task.wider(sample) for sample in chosen]
    prepared = [
        task.prepare(calibration.dataset.read(sample.image_id), sample, card, *([shape] if shape else []))
        for sample in chosen
    ]
    return [(array[np.newaxis], meta) for array, meta in prepared]


def calibration_arrays(card: Card, calibration: Calibration, shape: Size | None = None) -> list[np.ndarray]:
    """The calibration set's inputs alone."""
    return [array for array, _ in calibration_inputs(card, calibration, shape)]


def drawn(calibration: Calibration, count: int) -> dict[str, Any]:
    """What a plan says of its calibration set."""
    return {"dataset": calibration.dataset.protocol["dataset"], "samples": count, "seed": calibration.seed}
