"""Integers for a layer's weights, and a bias, that give back its output best on calibration data.

Rounding to nearest is best for each weight and not for their sum. GPTQ (Frantar et al., 2023) rounds one column after
the other and lets those that are left make up for the error, by the inputs' covariance; it is a closed form. A wide
layer's columns do so in blocks: a covariance of all would need more rows than are kept, and most of what there is to
gain lies between neighbouring pixels. The bias takes up what is left of the mean, of the rounded weights and of the
rounded inputs alike (Nagel et al., 2019).
"""

from __future__ import annotations

import numpy as np

from sandglass.graph.layers import Facts
from sandglass.quantization.input_rows import from_matrix, row_channels, weight_matrix
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.plan_arrays import Rounded
from sandglass.quantization.qdq import activation_scale, clipped_range, weight_scales

DAMPING = 0.1  # of the mean variance, added to every variance: other images have another covariance
BLOCK = 576  # columns that make up for each other's errors, the most


def round_input(rows: np.ndarray, found: TensorRange, asymmetric: bool) -> np.ndarray:
    """Values as the runtime sees them after rounding to 8 bits, float32."""
    step, zero = activation_scale(found, asymmetric)
    low, high = (0, 255) if asymmetric else (-127, 127)
    integers = np.clip(np.round(rows / step) + np.float32(zero), low, high) - np.float32(zero)
    return np.asarray(integers * step, np.float32)


def round_layer(
    weight: np.ndarray,
    bias: np.ndarray | None,
    fact: Facts,
    rows: np.ndarray,
    found: TensorRange,
    asymmetric: bool,
    bits: int,
    compensate: bool = True,
    correct: bool = True,
) -> Rounded:
    """Integers of `bits` bits, their scales, and the bias for one layer.

    `rows` are its inputs (rows, groups, columns) as `samples.draw` gives them, `found` the input's range. Without
    `compensate` weights are rounded to nearest, without `correct` the bias stays.
    """
    levels = 2 ** (bits - 1) - 1
    scales = weight_scales(weight, fact.axis, bits)
    matrix, channels = weight_matrix(weight, fact).astype(np.float64), row_channels(fact)
    steps = scales[channels if len(scales) == fact.channels else channels % len(scales)].astype(np.float64)
    seen = round_input(rows, found, asymmetric)
    integers = np.clip(np.round(matrix / steps[..., None]), -levels, levels)
    if compensate:
        # The mean's error is the bias's to take up; where there is none the integers must keep it.
        mean = seen.mean(0) if correct and fact.layer.operator != "MatMul" else np.float32(0)
        centred = (seen - mean).transpose(1, 0, 2)
        blocks = -(-matrix.shape[2] // BLOCK)
        parts = zip(np.array_split(matrix, blocks, axis=2), np.array_split(centred, blocks, axis=2), strict=True)
        integers = np.concatenate([_compensate(part, read, steps, levels) for part, read in parts], axis=2)
    new = np.zeros(fact.channels) if bias is None else bias.astype(np.float64)
    if correct:
        low, high = clipped_range(found)
        inside = np.clip(rows, low, high)  # rare outliers that are clipped would shift all that is not
        before = np.einsum("grk,gk->gr", matrix, inside.mean(0, dtype=np.float64))
        after = np.einsum("grk,gk->gr", integers * steps[..., None], seen.mean(0, dtype=np.float64))
        share = 1 / np.prod(fact.stride) if fact.layer.operator == "ConvTranspose" else 1.0
        np.add.at(new, channels.ravel(), ((before - after) * share).ravel())
    whole = from_matrix(integers, fact).astype(np.int8)
    return Rounded(np.ascontiguousarray(whole), scales, new.astype(np.float32))


def _compensate(matrix: np.ndarray, seen: np.ndarray, steps: np.ndarray, levels: int) -> np.ndarray:
    """GPTQ for each group: (groups, outputs, columns) weights that read (groups, rows, columns), to integers."""
    columns, read = matrix.shape[2], seen.astype(np.float64)
    covariance = read.transpose(0, 2, 1) @ read / read.shape[1]
    variances = np.einsum("gkk->gk", covariance)
    order = np.argsort(-variances, axis=1)
    taken = np.take_along_axis(np.take_along_axis(covariance, order[:, :, None], 1), order[:, None, :], 2)
    damping = DAMPING * np.maximum(variances.mean(1), 1e-12)
    taken[:, np.arange(columns), np.arange(columns)] += damping[:, None]
    upper = np.linalg.cholesky(np.linalg.inv(taken)).transpose(0, 2, 1)
    left = np.take_along_axis(matrix, order[:, None, :], 2).copy()
    integers = np.empty_like(left)
    for k in range(columns):
        integers[:, :, k] = np.clip(np.round(left[:, :, k] / steps), -levels, levels)
        error = (left[:, :, k] - integers[:, :, k] * steps) / upper[:, k, k, None]
        left[:, :, k + 1 :] -= error[:, :, None] * upper[:, k, None, k + 1 :]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(integers, back[:, None, :], 2)
