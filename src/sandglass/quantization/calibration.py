"""The calibration set: the samples that activation ranges are read on."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.core.json_values import JsonObject
from sandglass.core.sizes import Size
from sandglass.datasets import Dataset
from sandglass.sources.card import Card
from sandglass.tasks import Sample, Task, View, check_dataset, load_task

Look = tuple[np.ndarray, View]  # an input (1, 3, H, W) float32, and what the task needs to decode its outputs


@dataclass(frozen=True)
class Calibration:
    """Where activation ranges are read: `size` samples of `dataset`, drawn by `seed`, thresholds by `method`.

    A method is one of `thresholds.METHODS`, or "auto" (see `automatic_method`).
    """

    dataset: Dataset
    size: int = 64
    method: str = "auto"
    seed: int = 0


def calibration_inputs(card: Card, calibration: Calibration, shape: Size | None = None) -> list[Look]:
    """The calibration set: `size` prepared inputs, each (1, 3, H, W) float32, drawn from the dataset by the seed.

    They have the card's size, or `shape` where the task's inputs may have another.
    """
    task, read = load_task(card.task), calibration.dataset.read
    return [_look(task, card, read(s.image_id), s, shape) for s in _samples(task, calibration)]


def calibration_looks(card: Card, calibration: Calibration, shape: Size | None = None) -> tuple[list[Look], list[Look]]:
    """The inputs that ranges are read on, and others of the same samples that fidelity has to be kept on as well.

    Where the task's samples are parts of images the first are the calibration set as it is and then with more around
    each sample, the second are the samples in few pixels; elsewhere they are the calibration set, and none.
    """
    task, read = load_task(card.task), calibration.dataset.read
    first, second = calibration_inputs(card, calibration, shape), list[Look]()
    if variants := task.VARIANTS:
        chosen = _samples(task, calibration)
        first += [_look(task, card, read(s.image_id), variants.wider(s)) for s in chosen]
        second = [_look(task, card, *variants.smaller(read(s.image_id), s)) for s in chosen]
    return first, second


def _samples(task: Task, calibration: Calibration) -> list[Sample]:
    check_dataset(task, calibration.dataset)
    samples = task.samples(calibration.dataset)
    if not samples:
        raise DatasetError("the calibration set is empty", "give images with annotated samples")
    chosen = random.Random(calibration.seed).sample(samples, min(calibration.size, len(samples)))
    return sorted(chosen, key=lambda sample: sample.index)


def _look(task: Task, card: Card, image: np.ndarray, sample: Sample, shape: Size | None = None) -> Look:
    if shape is None or task.SHAPES is None:
        array, view = task.prepare(image, sample, card)
    else:
        array, view = task.SHAPES.prepare(image, sample, card, shape)
    return array[np.newaxis], view


def calibration_arrays(card: Card, calibration: Calibration, shape: Size | None = None) -> list[np.ndarray]:
    """The calibration set's inputs alone."""
    return [array for array, _ in calibration_inputs(card, calibration, shape)]


def drawn(calibration: Calibration, count: int) -> JsonObject:
    """The calibration set as a plan records it."""
    return {"dataset": calibration.dataset.protocol["dataset"], "samples": count, "seed": calibration.seed}


def shared_images(task: Task, first: Dataset, second: Dataset) -> list[str]:
    """A line for images, by their pixels, that both datasets have samples in; none where they are disjoint."""
    for data in (first, second):
        check_dataset(task, data)
    ids = [dict.fromkeys(sample.image_id for sample in task.samples(data)) for data in (first, second)]
    hashes = [
        {hashlib.sha256(data.read(i).tobytes()).digest() for i in ids_of_data}
        for data, ids_of_data in zip((first, second), ids, strict=True)
    ]
    shared = len(hashes[0] & hashes[1])
    return [f"{shared} images are in the calibration set and in the evaluation set"] if shared else []
