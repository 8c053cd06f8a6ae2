"""The calibration set: the samples on which the ranges of activations are measured."""

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

Look = tuple[np.ndarray, View]  # an input, (1, 3, H, W) float32, and the view with which the task decodes its outputs


@dataclass(frozen=True)
class Calibration:
    """The measurement of activation ranges: on `size` samples of `dataset`, drawn at random with `seed`.

    `method` chooses the thresholds: one of `thresholds.METHODS`, or "auto" (see `automatic_method`).
    """

    dataset: Dataset
    size: int = 64
    method: str = "auto"
    seed: int = 0


def calibration_inputs(card: Card, calibration: Calibration, shape: Size | None = None) -> list[Look]:
    """The calibration set: up to `size` prepared inputs, each (1, 3, H, W) float32, with their views.

    H and W are the card's, or those of `shape` if the task allows other sizes. Raises DatasetError for a dataset that
    does not suit the task or has no samples.
    """
    task, read = load_task(card.task), calibration.dataset.read
    return [_look(task, card, read(s.image_id), s, shape) for s in _samples(task, calibration)]


def calibration_looks(card: Card, calibration: Calibration, shape: Size | None = None) -> tuple[list[Look], list[Look]]:
    """Two lists: the inputs on which ranges are measured, and further inputs on which fidelity is checked too.

    The first list is the calibration set. If the samples of a task are parts of images (such as people in boxes), it
    also holds each sample with a wider margin, and the second list holds each sample at a low resolution. For other
    tasks the second list is empty. Raises DatasetError as `calibration_inputs` does.
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
    return sorted(chosen, key=lambda sample: sample.index)  # in the order of the dataset


def _look(task: Task, card: Card, image: np.ndarray, sample: Sample, shape: Size | None = None) -> Look:
    if shape is None or task.SHAPES is None:
        array, view = task.prepare(image, sample, card)
    else:
        array, view = task.SHAPES.prepare(image, sample, card, shape)
    return array[np.newaxis], view


def calibration_arrays(card: Card, calibration: Calibration, shape: Size | None = None) -> list[np.ndarray]:
    """The inputs of the calibration set without their views, each (1, 3, H, W) float32."""
    return [array for array, _ in calibration_inputs(card, calibration, shape)]


def drawn(calibration: Calibration, count: int) -> JsonObject:
    """The calibration set as a plan records it."""
    return {"dataset": calibration.dataset.protocol["dataset"], "samples": count, "seed": calibration.seed}


def shared_images(task: Task, first: Dataset, second: Dataset) -> list[str]:
    """One line that says how many images both datasets have samples of, compared by their pixels; no line for none."""
    for data in (first, second):
        check_dataset(task, data)
    ids = [dict.fromkeys(sample.image_id for sample in task.samples(data)) for data in (first, second)]
    hashes = [
        {hashlib.sha256(data.read(i).tobytes()).digest() for i in ids_of_data}
        for data, ids_of_data in zip((first, second), ids, strict=True)
    ]
    shared = len(hashes[0] & hashes[1])
    return [f"{shared} images are in the calibration set and in the evaluation set"] if shared else []
