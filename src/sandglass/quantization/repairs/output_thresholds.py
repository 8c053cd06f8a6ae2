"""Thresholds by what rounding does to a layer's output, not to its input.

A clamp behind the layer is part of it: what it cuts off may change as it likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sandglass.core.parallel import in_threads
from sandglass.graph.layers import Facts
from sandglass.quantization.input_rows import weight_matrix
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import clipped_range
from sandglass.quantization.weight_rounding import round_input

CANDIDATES = np.geomspace(1, 0.05, 20)  # of the largest magnitude
ROWS = 1024
HOPELESS = 4.0  # times the least error: smaller ranges only clip more


@dataclass(frozen=True)
class Reader:
    """A layer that reads a tensor: its weight, its bias (channels,) if any, rows of input as `samples.draw` gives them.

    `bounds` are those of the clamp that alone follows it, infinite without one.
    """

    fact: Facts
    weight: np.ndarray
    bias: np.ndarray | None
    rows: np.ndarray
    bounds: tuple[float, float] = (-np.inf, np.inf)


class _Output:
    """What a reader makes of some of its rows, and how far that changes with them."""

    def __init__(self, reader: Reader) -> None:
        self.rows = reader.rows[:: max(1, len(reader.rows) // ROWS)]
        self.matrix = weight_matrix(reader.weight, reader.fact).astype(np.float32).transpose(0, 2, 1)
        self.bounds = reader.bounds
        if reader.fact.layer.operator == "ConvTranspose":
            self.bounds = (-np.inf, np.inf)  # a row makes one tap of an output, which is clamped as a sum of them
        self.before = self._made(self.rows)
        if reader.bias is not None and np.isfinite(self.bounds).any():
            self.before += reader.bias.astype(np.float32).reshape(len(self.before), 1, -1)
        self.after = np.clip(self.before, *self.bounds)

    def error(self, found: TensorRange, asymmetric: bool) -> float:
        """Mean square of the change when the input is rounded within a range.

        The mean change of values inside does not count, because the bias takes it up. That of clipped ones does.
        """
        seen = round_input(self.rows, found, asymmetric)
        change = seen - self.rows - (seen - np.clip(self.rows, *clipped_range(found))).mean(0)
        after = np.clip(self.before + self._made(change), *self.bounds)
        return float(((after - self.after) ** 2).mean())

    def _made(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows.transpose(1, 0, 2) @ self.matrix)  # (groups, rows, outputs)


def output_threshold(found: TensorRange, readers: Sequence[Reader], asymmetric: bool) -> TensorRange:
    """The range whose rounding changes the outputs of `readers`, which read the tensor, least, in mean square."""
    outputs = [_Output(reader) for reader in readers]
    best, least = found, float("inf")
    for share in CANDIDATES:
        candidate = replace(found, threshold=float(share * found.largest))
        error = sum(output.error(candidate, asymmetric) for output in outputs)
        if error < least:
            best, least = candidate, error
        elif error > HOPELESS * least:
            break
    return best


def output_thresholds(
    ranges: Mapping[str, TensorRange], readers: Mapping[str, Sequence[Reader]], asymmetric: Mapping[str, bool]
) -> dict[str, TensorRange]:
    """`ranges` with new thresholds for the tensors that have `readers`, on all cores."""

    def chosen(name: str) -> TensorRange:
        found = ranges[name]
        if not readers.get(name) or found.threshold == 0:
            return found
        return output_threshold(found, readers[name], asymmetric[name])

    return dict(zip(ranges, in_threads(chosen, ranges, "choosing a threshold"), strict=True))
