"""From a histogram of magnitudes to the clipping threshold of symmetric 8-bit quantization."""

from __future__ import annotations

import numpy as np

from sandglass.quantize.calibrate import TensorStatistics

METHODS = ("kl", "mse", "minmax", "percentile")
LEVELS = 128  # magnitudes of a signed byte
KL_BINS = 2048
KL_EPSILON = 1e-4
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
    levels average over fractional bins, 1e-4 is added to every bin, and the threshold is in the middle of its bin.
    """
    return LEVELS + int(kl_divergences(histogram / histogram.sum()).argmin()) + 0.5


def kl_divergences(normed: np.ndarray) -> np.ndarray:
    """Divergence for clipping at each of the bins 128, 129, ..., one number a threshold.

    The divergence sums p log p - p log q over bins, and q is constant within a level: sums of p over a level, taken
    as differences of a cumulative sum, stand for its whole bins, and only bins that two levels share are added singly.
    Rows are thresholds and columns are levels.
    """
    thresholds = np.arange(LEVELS, len(normed))
    width = thresholds[:, None] / LEVELS  # bins in a level; exact, as all its multiples are
    edges = np.arange(LEVELS + 1) * width
    below = np.floor(edges).astype(np.intp)
    fraction = edges - below
    above = below + (fraction > 0)
    cumulative = np.concatenate([[0.0], np.cumsum(normed)])
    levels = np.diff(cumulative[below] + fraction * normed[np.minimum(below, len(normed) - 1)]) / width

    rest = 1.0 - cumulative[thresholds]  # clipped, and counted in the last bin
    whole = cumulative[below[:, 1:]] - cumulative[above[:, :-1]] + KL_EPSILON * (below[:, 1:] - above[:, :-1])
    whole[:, -1] += rest
    cross = (whole * np.log(levels + KL_EPSILON)).sum(1)
    left = fraction[:, 1:-1]
    mixed = left * levels[:, :-1] + (1 - left) * levels[:, 1:] + KL_EPSILON
    shared = np.where(left > 0, normed[below[:, 1:-1]] + KL_EPSILON, 0.0)
    cross += (shared * np.log(mixed)).sum(1)

    raised = normed + KL_EPSILON
    own = np.concatenate([[0.0], np.cumsum(raised * np.log(raised))])
    last = raised[thresholds - 1] + rest
    return np.asarray(own[thresholds - 1] + last * np.log(last) - cross)


def mse(histogram: np.ndarray) -> float:
    """The threshold, in bins, with the least mean squared error of rounding and clipping, out of 100 candidates."""
    bins = len(histogram)
    centres = np.arange(bins) + 0.5
    candidates = np.linspace(0.1, 1.0, 100) * bins
    steps = candidates[:, None] / (LEVELS - 1)
    rounded = np.minimum(np.round(centres / steps), LEVELS - 1) * steps
    return float(candidates[int((((rounded - centres) ** 2) @ histogram).argmin())])
