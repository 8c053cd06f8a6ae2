"""Activation statistics of a graph in one streaming pass: minimum, maximum, and a histogram of magnitudes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from sandglass.core.errors import DatasetError, PlanError
from sandglass.core.parallel import in_threads
from sandglass.graph.session import GraphSession

NEGLIGIBLE = 1e-30  # below this the step of an 8-bit grid is no normal float32
BINS = 8192  # after a doubling of the range at least half of them cover the largest value


class TensorStatistics:
    """What is kept of one tensor: two numbers and BINS counts, however many images there are."""

    def __init__(self) -> None:
        self.minimum, self.maximum = float("inf"), float("-inf")
        self.range = 0.0
        self.counts = np.zeros(BINS, np.float64)
        self.zeros = 0

    def update(self, values: np.ndarray) -> None:
        """Take in one array. Raises ValueError for values that are not finite."""
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("NaN or infinite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._widen(max(-low, high))
        if self.range > NEGLIGIBLE:
            magnitudes = np.abs(values.reshape(1, -1))
            counts = cv2.calcHist(
                [magnitudes], [0], None, [BINS], [0, float(np.nextafter(self.range, np.inf)) * 1.000001]
            )
            zeros = magnitudes.size - cv2.countNonZero(magnitudes)
            self.counts += counts.ravel()  # OpenCV 4 returns a column
            self.counts[0] -= zeros  # zeros are exact in every format; padding and ReLU would drown the rest
            self.zeros += zeros

    @property
    def largest(self) -> float:
        """Largest magnitude; 0 for a tensor that has nothing but zeros and underflow."""
        largest = max(-self.minimum, self.maximum)
        return largest if largest > NEGLIGIBLE else 0.0

    def histogram(self, bins: int) -> np.ndarray:
        """Counts of non-zero magnitudes in `bins` equal bins over 0 .. largest, (bins,) float64."""
        edges = np.linspace(0, self.range, BINS + 1)
        cumulative = np.concatenate([[0.0], np.cumsum(self.counts)])
        return np.diff(np.interp(np.linspace(0, self.largest, bins + 1), edges, cumulative))

    def _widen(self, largest: float) -> None:
        if self.range <= NEGLIGIBLE:
            self.range = largest
        while largest > self.range:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.range *= 2


def gather(
    graph: Path | GraphSession, tensors: Sequence[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, TensorStatistics]:
    """Run every batch through the graph and collect the statistics of `tensors`, by name.

    In place of the graph a session may be given that returns them.

    Memory does not grow with the number of batches. Tensors of integers and truths, which nothing quantizes, are left
    out. Raises DatasetError when there is no batch, and PlanError naming the first tensor, in the graph's order, that
    is NaN or infinite.
    """
    statistics = {name: TensorStatistics() for name in tensors}
    session = graph if isinstance(graph, GraphSession) else None
    seen = False
    for index, batch in enumerate(batches):
        if session is None:
            session = GraphSession(graph, outputs=[name for name in tensors if name not in batch])
        seen = True
        values = {**batch, **session.run(batch)}
        statistics = {name: entry for name, entry in statistics.items() if values[name].dtype == np.float32}
        updates = [(name, entry, values[name], index) for name, entry in statistics.items()]
        for _ in in_threads(_update, updates, "the statistics of a tensor"):
            pass
    if not seen:
        raise DatasetError("the calibration set is empty", "give images with annotated samples")
    return statistics


def _update(entry: tuple[str, TensorStatistics, np.ndarray, int]) -> None:
    """Add a tensor's values on one sample to its statistics. Raises PlanError for one that is NaN or infinite."""
    name, statistics, values, index = entry
    try:
        statistics.update(values)
    except ValueError as error:
        raise PlanError(
            f"the tensor {name} is {error} on calibration sample {index}", "check the weights and the sample"
        ) from error
