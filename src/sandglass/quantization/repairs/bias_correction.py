"""A bias that takes up the mean error of a layer's output, of its rounded weights and its rounded inputs alike."""

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
BUILDS_ON: tuple[str, ...] = ()
COMPARISON = None


def corrected(layer: LayerToRound, rounded: Rounded) -> Rounded:
    """The layer with the bias b + E[W x] - E[W' x'], where W' and x' are the rounded weights and inputs."""
    low, high = clipped_range(layer.range)
    inside = np.clip(layer.rows, low, high)  # rare outliers that are clipped would shift all other values
    integers = weight_matrix(rounded.integers, layer.fact).astype(np.float64)
    weights = integers * layer.steps(rounded.scales)[..., None]  # (groups, outputs, columns)
    before = np.einsum("grk,gk->gr", layer.matrix, inside.mean(0, dtype=np.float64))
    after = np.einsum("grk,gk->gr", weights, layer.rounded_rows.mean(0, dtype=np.float64))
    # A row of a transposed convolution's weights makes one tap, and each output has 1 / stride of them.
    share = 1 / np.prod(layer.fact.stride) if layer.fact.layer.operator == "ConvTranspose" else 1.0
    bias = rounded.bias.astype(np.float64)
    np.add.at(bias, row_channels(layer.fact).ravel(), ((before - after) * share).ravel())
    return replace(rounded, bias=bias.astype(np.float32))


STEPS = (WeightStep(20, corrected),)  # after the integers are chosen
