"""Bias correction: the bias of a layer compensates the mean error of its output.

The error comes from the rounded weights W' and the rounded inputs x': the new bias is b + E[W x] - E[W' x']. Example
with one weight: W = 0.30 is rounded to W' = 0.25, and x has the mean 8. Without a correction the output is 0.4 too
small on average; the bias becomes b + 0.4.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sandglass.quantization.edits import Rounded
from sandglass.quantization.input_rows import row_channels, weight_matrix
from sandglass.quantization.layer_rounding import LayerToRound
from sandglass.quantization.qdq import clipped_range
from sandglass.quantization.repairs import WeightStep

NAME = "bias correction"
SOURCE = "Nagel et al. (2019), Data-Free Quantization Through Weight Equalization and Bias Correction"


def corrected(layer: LayerToRound, rounded: Rounded) -> Rounded:
    """The layer with the bias b + E[W x] - E[W' x'], where W' and x' are the rounded weights and inputs."""
    low, high = clipped_range(layer.range)
    # x is clipped: otherwise the losses of rare outliers would shift the outputs for all other values.
    inside = np.clip(layer.rows, low, high)  # (rows, groups, columns)
    integers = weight_matrix(rounded.integers, layer.fact).astype(np.float64)
    weights = integers * layer.steps(rounded.scales)[..., None]  # (groups, outputs, columns)
    # (groups, outputs, columns) times the means over rows, (groups, columns): (groups, outputs)
    before = np.einsum("grk,gk->gr", layer.matrix, inside.mean(0, dtype=np.float64))
    after = np.einsum("grk,gk->gr", weights, layer.rounded_rows.mean(0, dtype=np.float64))
    # A row of the matrix of a transposed convolution is one tap of its kernel. An output channel has all taps as rows,
    # but with the strides s and t each of its pixels is the sum over only 1 / (s t) of them.
    share = 1 / np.prod(layer.fact.stride) if layer.fact.layer.operator == "ConvTranspose" else 1.0
    bias = rounded.bias.astype(np.float64)
    np.add.at(bias, row_channels(layer.fact).ravel(), ((before - after) * share).ravel())
    return replace(rounded, bias=bias.astype(np.float32))


STEPS = (WeightStep(20, corrected),)  # after the integers are chosen
