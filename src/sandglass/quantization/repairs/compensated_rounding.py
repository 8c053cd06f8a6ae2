"""Compensated rounding (GPTQ): integers for a layer's weights that keep its output best on calibration data.

Rounding to nearest is best for each weight, but not for the sum over all inputs. GPTQ rounds one column of weights
after the other. After each column it changes the columns that are not yet rounded so that they compensate the error, as
well as the covariance of the inputs allows. All steps have a closed form.

Example: an output has the weights 0.4 and 0.4 in steps of 1, and its two inputs are always equal. To nearest both
become 0, and the output 0.8 x becomes 0. GPTQ rounds the first to 0 and moves its error to the second, which becomes
0.4 + 0.36 = 0.76 (0.36 and not 0.4 because of the damping) and is rounded to 1. The output becomes x.

    >>> weights, inputs = np.array([[[0.4, 0.4]]]), np.array([[[1.0, 1.0], [-1.0, -1.0]]])
    >>> compensate(weights, inputs, steps=np.array([[1.0]]), largest=127)
    array([[[0., 1.]]])

A wide layer is rounded in blocks of columns. The covariance of all columns would need more rows than are drawn, and
most of the gain comes from neighbouring pixels.
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
DAMPING = 0.1  # share of the mean variance that is added to each variance: other images have another covariance
BLOCK = 576  # columns of a block, at most: a 3 x 3 kernel over 64 channels
NO_VARIANCE = 1e-12  # least mean variance from which the damping is computed


def compensated(layer: LayerToRound, rounded: Rounded) -> Rounded:
    """The layer with integers chosen one column after the other, at the scales of `rounded`."""
    # Bias correction removes the mean error of the output, so that only deviations from the mean count. Without it the
    # integers have to keep the mean of the output too.
    corrected = BIAS_CORRECTION in layer.repairs and layer.fact.layer.operator != "MatMul"
    mean = layer.rounded_rows.mean(0) if corrected else np.float32(0)
    inputs = (layer.rounded_rows - mean).transpose(1, 0, 2)  # (groups, rows, columns)
    # The covariance of n columns is n x n, and its inverse costs n^3: blocks of columns are rounded on their own.
    blocks = -(-layer.matrix.shape[2] // BLOCK)
    parts = zip(np.array_split(layer.matrix, blocks, axis=2), np.array_split(inputs, blocks, axis=2), strict=True)
    steps = layer.steps(rounded.scales)
    integers = [compensate(weights, block, steps, layer.largest) for weights, block in parts]
    return replace(rounded, integers=layer.integers(np.concatenate(integers, axis=2)))


def compensate(matrix: np.ndarray, inputs: np.ndarray, steps: np.ndarray, largest: int) -> np.ndarray:
    """GPTQ for each group of a layer: integers from -`largest` to `largest`, (groups, outputs, columns) float64.

    The weights `matrix` are (groups, outputs, columns), `inputs` are (groups, rows, columns), and `steps`, the scales
    of the weights, are (groups, outputs). With H = X' X / rows + damping and the upper Cholesky factor U of H^-1, the
    error e of column k changes each later column j by -e / U[k, k] * U[k, j]. In least squares no other change of the
    later columns compensates the error better.
    """
    columns, rows = matrix.shape[2], inputs.astype(np.float64)
    covariance = rows.transpose(0, 2, 1) @ rows / rows.shape[1]  # (groups, columns, columns)
    variances = np.einsum("gkk->gk", covariance)  # (groups, columns)
    order = np.argsort(-variances, axis=1)  # the column with the largest input first: its error costs most
    ordered = np.take_along_axis(np.take_along_axis(covariance, order[:, :, None], 1), order[:, None, :], 2)
    damping = DAMPING * np.maximum(variances.mean(1), NO_VARIANCE)
    ordered[:, np.arange(columns), np.arange(columns)] += damping[:, None]
    upper = np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1)
    weights = np.take_along_axis(matrix, order[:, None, :], 2).copy()  # columns from k on are not yet rounded
    integers = np.empty_like(weights)
    for k in range(columns):
        integers[:, :, k] = np.clip(np.round(weights[:, :, k] / steps), -largest, largest)
        error = (weights[:, :, k] - integers[:, :, k] * steps) / upper[:, k, k, None]  # (groups, outputs)
        weights[:, :, k + 1 :] -= error[:, :, None] * upper[:, k, None, k + 1 :]
    original_order = np.argsort(order, axis=1)
    return np.take_along_axis(integers, original_order[:, None, :], 2)


STEPS = (WeightStep(10, compensated),)
