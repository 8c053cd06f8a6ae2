"""Rounding of one layer: its input to 8 bits as a runtime sees it, and its weights to the nearest integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sandglass.graph.layers import Facts
from sandglass.quantization.edits import Rounded
from sandglass.quantization.input_rows import from_matrix, row_channels, weight_matrix
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import activation_scale, weight_scales


def round_input(rows: np.ndarray, seen: TensorRange, asymmetric: bool) -> np.ndarray:
    """Values of a tensor with the range `seen` as the runtime sees them after rounding to 8 bits, float32."""
    step, zero = activation_scale(seen, asymmetric)
    low, high = (0, 255) if asymmetric else (-127, 127)
    integers = np.clip(np.round(rows / step) + np.float32(zero), low, high) - np.float32(zero)
    return np.asarray(integers * step, np.float32)


@dataclass(frozen=True)
class LayerToRound:
    """A layer of the edited float network, rows of its input, and how its weights are to be rounded.

    `rows` are (rows, groups, columns) as `input_rows.draw` gives them, `range` is that of the layer's input, `bias` is
    (channels,). `bits` are those of the weights. `repairs` names the repairs that the plan has.
    """

    fact: Facts
    weight: np.ndarray
    bias: np.ndarray | None
    rows: np.ndarray
    range: TensorRange
    asymmetric: bool
    bits: int
    repairs: tuple[str, ...] = ()

    @property
    def largest(self) -> int:
        """The largest integer that a weight may be."""
        return int(2 ** (self.bits - 1) - 1)

    @cached_property
    def matrix(self) -> np.ndarray:
        """The weights, (groups, outputs, columns) float64."""
        return weight_matrix(self.weight, self.fact).astype(np.float64)

    @cached_property
    def rounded_rows(self) -> np.ndarray:
        """The rows after rounding, in the shape of `rows`."""
        return round_input(self.rows, self.range, self.asymmetric)

    def steps(self, scales: np.ndarray) -> np.ndarray:
        """The scale of each row of the matrix, (groups, outputs) float64, from the `scales` of the weight's axis."""
        channels = row_channels(self.fact)
        own = channels if len(scales) == self.fact.channels else channels % len(scales)
        return np.asarray(scales[own].astype(np.float64))

    def integers(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix of integers, (groups, outputs, columns), as int8 in the weight's shape."""
        return np.ascontiguousarray(from_matrix(matrix, self.fact).astype(np.int8))


def round_to_nearest(layer: LayerToRound) -> Rounded:
    """Each weight at the integer that is nearest, with the bias as it is."""
    scales = weight_scales(layer.weight, layer.fact.axis, layer.bits)
    integers = np.clip(np.round(layer.matrix / layer.steps(scales)[..., None]), -layer.largest, layer.largest)
    bias = np.zeros(layer.fact.channels) if layer.bias is None else layer.bias
    return Rounded(layer.integers(integers), scales, bias.astype(np.float32))
