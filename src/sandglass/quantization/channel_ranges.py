"""The range of each channel of a tensor over the calibration set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sandglass.graph.session import GraphSession


@dataclass(frozen=True)
class ChannelRange:
    """The smallest and the largest value of each channel over all batches, (channels,) each."""

    low: np.ndarray
    high: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether no value was NaN or infinite."""
        return bool(np.isfinite([self.low, self.high]).all())


def channel_ranges(
    graph: Path, tensors: Iterable[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, ChannelRange]:
    """The range of each channel (axis 1) over batches, by tensor."""
    session = GraphSession(graph, outputs=list(tensors))
    extremes: defaultdict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for batch in batches:
        for name, value in session.run(batch).items():
            others = tuple(axis for axis in range(value.ndim) if axis != 1)  # (batch, channels, height, width): 0, 2, 3
            extremes[name].append((value.min(axis=others), value.max(axis=others)))
    return {name: _range(pairs) for name, pairs in extremes.items()}


def _range(pairs: list[tuple[np.ndarray, np.ndarray]]) -> ChannelRange:
    lows, highs = (np.stack(values) for values in zip(*pairs, strict=True))  # (batches, channels)
    return ChannelRange(lows.min(0), highs.max(0))
