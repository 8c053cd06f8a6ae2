"""Activation statistics of a graph in one streaming pass: minimum, maximum, and a histogram of magnitudes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from sandglass.core.errors import DatasetError, PlanError
from sandglass.core.parallel import in_threads
from sandglass.graph.session import GraphSession

NEGLIGIBLE = 1e-30  # largest magnitude of a tensor that counts as 0: its 8-bit step would not be a normal float32
BINS = 8192  # bins of the histogram of a tensor; after its range doubles, half of them cover the old range


class TensorStatistics:
    """The statistics of one tensor: its extremes, and a histogram of its magnitudes with BINS bins.

    Memory does not grow with the number of images. `range` is the upper end of the histogram; `counts` is (BINS,).
    """

    def __init__(self) -> None:
        self.minimum, self.maximum = float("inf"), float("-inf")
        self.range = 0.0
        self.counts = np.zeros(BINS, np.float64)
        self.zeros = 0

    def update(self, values: np.ndarray) -> None:
        """Add the values of one array, float32 of any shape. Raises ValueError for values that are not finite."""
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("NaN or infinite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._widen(max(-low, high))
        if self.range > NEGLIGIBLE:
            magnitudes = np.abs(values.reshape(1, -1))  # (1, elements), an image for OpenCV
            counts = cv2.calcHist(
                [magnitudes], [0], None, [BINS], [0, float(np.nextafter(self.range, np.inf)) * 1.000001]
            )
            zeros = magnitudes.size - cv2.countNonZero(magnitudes)
            self.counts += counts.ravel()  # OpenCV 4 returns a column
            self.counts[0] -= zeros  # 0 is exact in int8, and the zeros of padding and ReLU outnumber all other values
            self.zeros += zeros

    @property
    def largest(self) -> float:
        """Largest magnitude; 0 for a tensor in which all values are negligible."""
        largest = max(-self.minimum, self.maximum)
        return largest if largest > NEGLIGIBLE else 0.0

    def histogram(self, bins: int) -> np.ndarray:
        """Counts of non-zero magnitudes in `bins` equal bins over 0 .. largest, (bins,) float64."""
        # The new bins end between the edges of the old ones: counts are interpolated on the cumulative histogram.
        edges = np.linspace(0, self.range, BINS + 1)
        cumulative = np.concatenate([[0.0], np.cumsum(self.counts)])  # (BINS + 1,)
        return np.diff(np.interp(np.linspace(0, self.largest, bins + 1), edges, cumulative))

    def _widen(self, largest: float) -> None:
        if self.range <= NEGLIGIBLE:
            self.range = largest
        while largest > self.range:  # double the range: each bin takes the counts of two, and the upper half is empty
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.range *= 2


def gather(
    graph: Path | GraphSession, tensors: Sequence[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, TensorStatistics]:
    """Run every batch through the graph and collect the statistics of `tensors`, by name.

    `graph` is a file, or a session that returns these tensors. Memory does not grow with the number of batches. Only
    float32 tensors are quantized, so that the others are left out. Raises DatasetError if there is no batch, and
    PlanError with the name of the first tensor, in the graph's order, that is NaN or infinite.
    """
    statistics = {name: TensorStatistics() for name in tensors}
    session = graph if isinstance(graph, GraphSession) else None
    empty = True
    for index, batch in enumerate(batches):
        if session is None:
            session = GraphSession(graph, outputs=[name for name in tensors if name not in batch])
        empty = False
        values = {**batch, **session.run(batch)}
        statistics = {name: entry for name, entry in statistics.items() if values[name].dtype == np.float32}
        updates = [(name, entry, values[name], index) for name, entry in statistics.items()]
        for _ in in_threads(_update, updates, "the statistics of a tensor"):
            pass
    if empty:
        raise DatasetError("the calibration set is empty", "give images with annotated samples")
    return statistics


def _update(entry: tuple[str, TensorStatistics, np.ndarray, int]) -> None:
    """Add the values of a tensor on one sample to its statistics. Raises PlanError for NaN or infinite values."""
    name, statistics, values, index = entry
    try:
        statistics.update(values)
    except ValueError as error:
        raise PlanError(
            f"the tensor {name} is {error} on calibration sample {index}", "check the weights and the sample"
        ) from error
