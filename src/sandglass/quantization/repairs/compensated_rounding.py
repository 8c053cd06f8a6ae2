"""Integers for a layer's weights that give back its output best on calibration data.

Rounding to nearest is best for each weight and not for their sum. GPTQ rounds one column after the other and lets those
that are left make up for the error, by the inputs' covariance; it is a closed form. A wide layer's columns do so in
blocks: a covariance of all would need more rows than are kept, and most of what there is to gain lies between
neighbouring pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sandglass.quantization.edits import Rounded
from sandglass.quantization.layer_rounding import LayerToRound
from sandglass.quantization.repairs import WeightStep
from sandglass.quantization.repairs.bias_correction import NAME as BIAS_CORRECTION

NAME = "compensated rounding"
SOURCE = "Frantar et al. (2023), GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
BUILDS_ON: tuple[str, ...] = ()
COMPARISON = None
DAMPING = 0.1  # of the mean variance, added to every variance: other images have another covariance
BLOCK = 576  # columns that make up for each other's errors, the most: a 3 x 3 kernel over 64 channels
NO_VARIANCE = 1e-12  # the least mean variance that damping is a part of


def compensated(layer: LayerToRound, rounded: Rounded) -> Rounded:
    """The layer's integers at the scales of `rounded`, chosen one column after the other."""
    # A bias correction takes up the mean's error; without one the integers have to keep the mean.
    corrected = BIAS_CORRECTION in layer.repairs and layer.fact.layer.operator != "MatMul"
    mean = layer.rounded_rows.mean(0) if corrected else np.float32(0)
    inputs = (layer.rounded_rows - mean).transpose(1, 0, 2)  # (groups, rows, columns)
    blocks = -(-layer.matrix.shape[2] // BLOCK)
    parts = zip(np.array_split(layer.matrix, blocks, axis=2), np.array_split(inputs, blocks, axis=2), strict=True)
    steps = layer.steps(rounded.scales)
    integers = [_compensate(weights, read, steps, layer.largest) for weights, read in parts]
    return replace(rounded, integers=layer.integers(np.concatenate(integers, axis=2)))


def _compensate(matrix: np.ndarray, inputs: np.ndarray, steps: np.ndarray, largest: int) -> np.ndarray:
    """GPTQ for each group: weights (groups, outputs, columns) that read (groups, rows, columns), to integers.

    With H = X' X / rows + damping and the upper Cholesky factor U of H^-1, rounding column k by the error e changes
    every later column j by -e / U[k, k] U[k, j]: the change that the inputs make up for best, in least squares.
    """
    columns, read = matrix.shape[2], inputs.astype(np.float64)
    covariance = read.transpose(0, 2, 1) @ read / read.shape[1]  # (groups, columns, columns)
    variances = np.einsum("gkk->gk", covariance)
    order = np.argsort(-variances, axis=1)  # the column of the largest input first: its error costs most
    ordered = np.take_along_axis(np.take_along_axis(covariance, order[:, :, None], 1), order[:, None, :], 2)
    damping = DAMPING * np.maximum(variances.mean(1), NO_VARIANCE)
    ordered[:, np.arange(columns), np.arange(columns)] += damping[:, None]
    upper = np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1)
    left = np.take_along_axis(matrix, order[:, None, :], 2).copy()  # weights that are still to be rounded
    integers = np.empty_like(left)
    for k in range(columns):
        integers[:, :, k] = np.clip(np.round(left[:, :, k] / steps), -largest, largest)
        error = (left[:, :, k] - integers[:, :, k] * steps) / upper[:, k, k, None]  # (groups, outputs)
        left[:, :, k + 1 :] -= error[:, :, None] * upper[:, k, None, k + 1 :]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(integers, back[:, None, :], 2)


STEPS = (WeightStep(10, compensated),)
