"""One image through an artifact, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.core import discover
from sandglass.measure.evaluation import infer
from sandglass.vision.image import read_image

Box = Sequence[float]


def predict(artifact: Artifact, image: Path, boxes: Sequence[Box] = ()) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """What `artifact` sees in an image: the picture with it drawn in (HWC uint8 RGB), and the task's predictions.

    `boxes` are x, y, width, height in pixels of the samples to look at; without any, the whole image is one.
    """
    task = discover.load("tasks", artifact.card.task)
    pixels = read_image(image)
    samples = task.samples_in_image(pixels, boxes)
    predictions: dict[int, dict[str, Any]] = {}
    with artifact.isolated() as session:
        for part in infer(task, artifact, session, _One(pixels), samples):
            predictions.update(part)
    ordered = [predictions[sample.index] for sample in samples]
    return task.draw(pixels, ordered), ordered


class _One:
    """A dataset of one image."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, image_id: int) -> np.ndarray:
        return self.pixels
