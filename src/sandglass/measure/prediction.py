"""Predictions of an artifact for one image, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.core.image_ids import Id
from sandglass.measure.evaluation import infer
from sandglass.tasks import Prediction, load_task
from sandglass.vision.image import read_image

Box = Sequence[float]


def predict(artifact: Artifact, image: Path, boxes: Sequence[Box] = ()) -> tuple[np.ndarray, list[Prediction]]:
    """The image with the predictions drawn into it, (height, width, 3) uint8 RGB, and the predictions of the task.

    `boxes` are the samples as (x, y, width, height) in pixels; without boxes the whole image is one sample. Raises
    InputError for a file that is not an image, and the BackendError of a runtime that fails.
    """
    task = load_task(artifact.card.task)
    pixels = read_image(image)
    samples = task.samples_in_image(pixels, boxes)
    predictions: dict[int, Prediction] = {}
    with artifact.isolated() as session:
        for part in infer(task, artifact, session, _OneImage(pixels), samples):
            predictions.update(part)
    ordered = [predictions[sample.index] for sample in samples]
    return task.draw(pixels, ordered), ordered


class _OneImage:
    """A source of images that returns the same image for all ids."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, image_id: Id) -> np.ndarray:
        return self.pixels
