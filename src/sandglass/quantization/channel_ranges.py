"""The range of each channel of a tensor over the calibration set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sandglass.graph.session import GraphSession

Ends = Mapping[str, tuple[np.ndarray, np.ndarray]]  # the values at which a tensor's channels are clipped


@dataclass(frozen=True)
class ChannelRange:
    """The smallest and the largest value of each channel; all arrays are (channels,).

    `low` and `high` are the extremes over all batches. `usual_low` and `usual_high` are means over batches of the
    extremes of each batch, clipped to the range of the tensor: one image may have peaks many times as high as those of
    all others, and factors that suit this image would suit no other.
    """

    low: np.ndarray
    high: np.ndarray
    usual_low: np.ndarray
    usual_high: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether no value was NaN or infinite."""
        return bool(np.isfinite([self.low, self.high]).all())


def channel_ranges(
    graph: Path, tensors: Iterable[str], batches: Iterable[Mapping[str, np.ndarray]], ends: Ends | None = None
) -> dict[str, ChannelRange]:
    """The range of each channel (axis 1) over batches, by tensor.

    `ends` holds, for some tensors, the smallest and the largest value after clipping, (channels,) or (1,) each.
    """
    session = GraphSession(graph, outputs=list(tensors))
    extremes: defaultdict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for batch in batches:
        for name, value in session.run(batch).items():
            others = tuple(axis for axis in range(value.ndim) if axis != 1)  # (batch, channels, height, width): 0, 2, 3
            extremes[name].append((value.min(axis=others), value.max(axis=others)))
    return {name: _range(pairs, (ends or {}).get(name)) for name, pairs in extremes.items()}


def _range(pairs: list[tuple[np.ndarray, np.ndarray]], ends: tuple[np.ndarray, np.ndarray] | None) -> ChannelRange:
    lows, highs = (np.stack(values) for values in zip(*pairs, strict=True))  # (batches, channels)
    usual = [values if ends is None else np.clip(values, *ends) for values in (lows, highs)]
    return ChannelRange(lows.min(0), highs.max(0), usual[0].mean(0), usual[1].mean(0))
