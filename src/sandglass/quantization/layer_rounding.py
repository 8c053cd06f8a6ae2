"""Rounding of one layer: its input to 8 bits, as a runtime does it, and its weights to the nearest integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sandglass.graph.layers import Facts
from sandglass.quantization.edits import Rounded
from sandglass.quantization.input_rows import from_matrix, row_channels, weight_matrix
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import activation_scale, weight_scales


def round_input(rows: np.ndarray, tensor_range: TensorRange, asymmetric: bool) -> np.ndarray:
    """Values of a tensor after rounding to 8 bits within its range, float32 in the shape of `rows`."""
    step, zero = activation_scale(tensor_range, asymmetric)
    low, high = (0, 255) if asymmetric else (-127, 127)
    # q = clip(round(x / step) + zero), and the runtime computes with step * (q - zero).
    integers = np.clip(np.round(rows / step) + np.float32(zero), low, high) - np.float32(zero)
    return np.asarray(integers * step, np.float32)


@dataclass(frozen=True)
class LayerToRound:
    """A layer of the edited float network, with rows of its input and the parameters of its rounding.

    `weight` has the shape of the graph, `bias` is (channels,). `rows` are (rows, groups, columns) float32 from
    `input_rows.draw`. `range` is the range of the layer's input, and `asymmetric` says that it has a zero point. `bits`
    is the number of bits of a weight. `repairs` names the repairs of the plan.
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
        """The largest integer of a weight: 127 with 8 bits."""
        return int(2 ** (self.bits - 1) - 1)

    @cached_property
    def matrix(self) -> np.ndarray:
        """The weights as a matrix, (groups, outputs, columns) float64."""
        return weight_matrix(self.weight, self.fact).astype(np.float64)

    @cached_property
    def rounded_rows(self) -> np.ndarray:
        """The rows after rounding, in the shape of `rows`."""
        return round_input(self.rows, self.range, self.asymmetric)

    def steps(self, scales: np.ndarray) -> np.ndarray:
        """The scale of each row of the matrix, (groups, outputs) float64, from the `scales` of the channels."""
        channels = row_channels(self.fact)  # (groups, outputs)
        # A transposed convolution with groups has the scales of one group, which all groups share.
        indices = channels if len(scales) == self.fact.channels else channels % len(scales)
        return np.asarray(scales[indices].astype(np.float64))

    def integers(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix of integers, (groups, outputs, columns), as int8 in the weight's shape."""
        return np.ascontiguousarray(from_matrix(matrix, self.fact).astype(np.int8))


def round_to_nearest(layer: LayerToRound) -> Rounded:
    """Each weight as the nearest integer, and the bias unchanged (0 for a layer without one)."""
    scales = weight_scales(layer.weight, layer.fact.axis, layer.bits)
    steps = layer.steps(scales)[..., None]  # (groups, outputs, 1)
    integers = np.clip(np.round(layer.matrix / steps), -layer.largest, layer.largest)
    bias = np.zeros(layer.fact.channels) if layer.bias is None else layer.bias
    return Rounded(layer.integers(integers), scales, bias.astype(np.float32))
