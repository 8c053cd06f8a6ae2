"""From a histogram of magnitudes to the clipping threshold of symmetric 8-bit quantization."""

from __future__ import annotations

import numpy as np

from sandglass.quantization.statistics import TensorStatistics

METHODS = ("mse", "minmax", "percentile", "kl")
AUTO = "auto"  # the one of METHODS that suits the network (see `automatic_method`)
LEVELS = 128  # magnitudes of a signed byte
KL_BINS = 2048  # of the histogram of magnitudes, as in TensorRT and ncnn's ncnn2table
KL_EPSILON = 1e-4  # added to the share of every bin, as in ncnn2table: log 0 has no value
MSE_BINS = 2048  # of the histogram of magnitudes
PERCENTILE = 0.9999  # of all values are kept, zeros included
MOST_ERROR = 4.0  # of kl over that of mse, in mean square, where no layer averages what is clipped


def threshold(statistics: TensorStatistics, method: str, averaged: bool = True) -> float:
    """The magnitude that becomes the largest integer, more than 0; 0 only for a tensor that is always 0.

    Without `averaged` no layer with weights reads the tensor, but sums, joins and poolings, which need its peaks: mse
    then takes the place of kl where that clips hard.
    """
    largest = statistics.largest
    if largest == 0 or method == "minmax":
        return largest
    if method == "percentile":
        return percentile(statistics)
    if method == "mse":
        return mse(statistics.histogram(MSE_BINS)) * largest / MSE_BINS
    histogram = statistics.histogram(KL_BINS)
    chosen = kl(histogram)
    if not averaged:
        other = mse(histogram)
        if squared_error(histogram, chosen) > MOST_ERROR * squared_error(histogram, other):
            chosen = other
    return chosen * largest / KL_BINS


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

    # sum of p log q over whole bins: q is one number in a level, so that a difference of the cumulative sum will do.
    rest = 1.0 - cumulative[thresholds]  # clipped, and counted in the last bin
    whole = cumulative[below[:, 1:]] - cumulative[above[:, :-1]] + KL_EPSILON * (below[:, 1:] - above[:, :-1])
    whole[:, -1] += rest
    cross = (whole * np.log(levels + KL_EPSILON)).sum(1)
    # A bin on the edge of two levels has a part in each: its q is their mean by these parts.
    left = fraction[:, 1:-1]
    mixed = left * levels[:, :-1] + (1 - left) * levels[:, 1:] + KL_EPSILON
    shared = np.where(left > 0, normed[below[:, 1:-1]] + KL_EPSILON, 0.0)
    cross += (shared * np.log(mixed)).sum(1)

    # sum over bins of p log p: p is the histogram up to the threshold, with all that is clipped in its last bin.
    raised = normed + KL_EPSILON
    own = np.concatenate([[0.0], np.cumsum(raised * np.log(raised))])
    last = raised[thresholds - 1] + rest
    return np.asarray(own[thresholds - 1] + last * np.log(last) - cross)


def mse(histogram: np.ndarray) -> float:
    """The threshold, in bins, with the least mean squared error of rounding and clipping, out of 100 candidates."""
    candidates = np.linspace(0.1, 1.0, 100) * len(histogram)
    return float(candidates[int(squared_error(histogram, candidates[:, None]).argmin())])


def squared_error(histogram: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """Sum of the squared errors of rounding and clipping, in bins; one for each row of thresholds (rows, 1)."""
    # A magnitude m becomes min(round(m / step), 127) * step: errors of rounding below the threshold, of clipping above.
    centres, steps = np.arange(len(histogram)) + 0.5, thresholds / (LEVELS - 1)
    rounded = np.minimum(np.round(centres / steps), LEVELS - 1) * steps
    return np.asarray(((rounded - centres) ** 2) @ histogram)
