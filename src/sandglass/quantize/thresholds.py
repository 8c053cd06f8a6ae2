"""From a histogram of magnitudes to the clipping threshold of symmetric 8-bit quantization."""

from __future__ import annotations

import numpy as np

from sandglass.quantize.calibrate import TensorStatistics

METHODS = ("kl", "mse", "minmax", "percentile")
LEVELS = 128  # magnitudes of a signed byte
KL_BINS = 2048
KL_EPSILON = 1e-4
KL_STRIDE = 8
MSE_BINS = 2048
PERCENTILE = 0.9999


def threshold(statistics: TensorStatistics, method: str) -> float:
    """The magnitude that becomes the largest integer, more than 0; 0 only for a tensor that is always 0."""
    largest = statistics.largest
    if largest == 0 or method == "minmax":
        return largest
    if method == "percentile":
        return percentile(statistics)
    bins = KL_BINS if method == "kl" else MSE_BINS
    choose = kl if method == "kl" else mse
    return choose(statistics.histogram(bins)) * largest / bins


def percentile(statistics: TensorStatistics) -> float:
    """The magnitude under which 99.99 % of all values lie, zeros included."""
    counts = statistics.histogram(MSE_BINS)
    counts[0] += statistics.zeros
    cumulative = np.cumsum(counts)
    place = int(np.searchsorted(cumulative, PERCENTILE * cumulative[-1])) + 1
    return min(place, MSE_BINS) * statistics.largest / MSE_BINS


def kl(histogram: np.ndarray) -> float:
    """The threshold, in bins, whose 128-level histogram has the least Kullback-Leibler divergence from the original.

    TensorRT's method (Migacz, 2017) with the details of ncnn's ncnn2table: clipped counts go into the last bin,
    levels average over fractional bins, and 1e-4 is added to every bin. Every eighth threshold is tried, then all
    beside the best three.
    """
    normed = histogram / histogram.sum()
    cumulative = np.concatenate([[0.0], np.cumsum(normed)])
    tried = {t: kl_divergence(normed, cumulative, t) for t in range(LEVELS, len(normed), KL_STRIDE)}
    for best in sorted(tried, key=lambda t: tried[t])[:3]:
        for t in range(max(LEVELS, best - KL_STRIDE + 1), min(len(normed), best + KL_STRIDE)):
            if t not in tried:
                tried[t] = kl_divergence(normed, cumulative, t)
    return min(tried, key=lambda t: tried[t]) + 0.5


def kl_divergence(normed: np.ndarray, cumulative: np.ndarray, threshold: int) -> float:
    """Divergence of the histogram clipped at bin `threshold` from its 128-level version."""
    clipped = normed[:threshold] + KL_EPSILON
    clipped[-1] += 1.0 - cumulative[threshold]
    knots = np.linspace(0, threshold, LEVELS + 1)
    at_knots = np.interp(knots, np.arange(threshold + 1), cumulative[: threshold + 1])
    levelled = np.diff(np.interp(np.arange(threshold + 1), knots, at_knots)) + KL_EPSILON
    return float((clipped * np.log(clipped / levelled)).sum())


def mse(histogram: np.ndarray) -> float:
    """The threshold, in bins, with the least mean squared error of rounding and clipping, out of 100 candidates."""
    bins = len(histogram)
    centres = np.arange(bins) + 0.5
    candidates = np.linspace(0.1, 1.0, 100) * bins
    steps = candidates[:, None] / (LEVELS - 1)
    rounded = np.minimum(np.round(centres / steps), LEVELS - 1) * steps
    return float(candidates[int((((rounded - centres) ** 2) @ histogram).argmin())])
