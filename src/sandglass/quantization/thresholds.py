"""The clipping threshold of symmetric 8-bit quantization, from a histogram of magnitudes.

Example: 20,001 values are even between -1 and 1, and one value is 10.

    >>> statistics = TensorStatistics()
    >>> statistics.update(np.append(np.linspace(-1, 1, 20_001), 10).astype(np.float32))
    >>> {method: round(threshold(statistics, method), 1) for method in METHODS}
    {'mse': 8.9, 'minmax': 10.0, 'percentile': 1.0, 'kl': 1.0}

`minmax` clips nothing: the step is 10 / 127 = 0.079, for all values. `percentile` and `kl` clip the peak: the step of
the other values is ten times smaller. `mse` weighs both errors. Clipping at 1 costs (10 - 1)^2 = 81 for the peak alone;
rounding with the step s costs about s^2 / 12 for each value, 20,001 * 0.079^2 / 12 = 10.3 in all. So it keeps most of
the peak.
"""

from __future__ import annotations

import numpy as np

from sandglass.quantization.statistics import TensorStatistics

METHODS = ("mse", "minmax", "percentile", "kl")
AUTO = "auto"  # the one of METHODS with the least noise for a network (see `automatic_method`)
LEVELS = 128  # magnitudes of a signed byte, 0 to 127
KL_BINS = 2048  # bins of the histogram of magnitudes, as in TensorRT and ncnn's ncnn2table
KL_EPSILON = 1e-4  # added to the share of every bin, as in ncnn2table, because log 0 is undefined
MSE_BINS = 2048  # bins of the histogram of magnitudes
PERCENTILE = 0.9999  # share of all values, zeros included, that are not clipped
# Ratio of the mean squared errors of kl and mse above which mse replaces kl for a tensor that no layer with weights
# reads: sums over many inputs, as in a layer, would average the errors of clipping.
MOST_ERROR = 4.0


def threshold(statistics: TensorStatistics, method: str, averaged: bool = True) -> float:
    """The magnitude that becomes the largest integer; it is 0 only for a tensor that is always 0.

    `averaged` says that a layer with weights reads the tensor. Otherwise only operators such as Add, Concat and MaxPool
    read it, which need its peaks: then mse replaces kl if kl clips too many of them.
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
    """The magnitude that 99.99 % of all values do not exceed, zeros included."""
    counts = statistics.histogram(MSE_BINS)
    counts[0] += statistics.zeros
    cumulative = np.cumsum(counts)
    bins = int(np.searchsorted(cumulative, PERCENTILE * cumulative[-1])) + 1  # the upper end of the bin that reaches it
    return min(bins, MSE_BINS) * statistics.largest / MSE_BINS


def kl(histogram: np.ndarray) -> float:
    """The threshold, in bins, whose 128-level histogram has the least Kullback-Leibler divergence from `histogram`.

    `histogram` is (bins,). This is TensorRT's method (Migacz, 2017) with the details of ncnn's ncnn2table: clipped
    counts go into the last bin, levels average over fractional bins, 1e-4 is added to every bin, and the threshold is
    in the middle of its bin.
    """
    return LEVELS + int(kl_divergences(histogram / histogram.sum()).argmin()) + 0.5


def kl_divergences(normed: np.ndarray) -> np.ndarray:
    """The divergence for clipping at each of the bins 128, 129, ...: (bins - 128,) float64.

    `normed` is a histogram with the sum 1, (bins,). p is the histogram up to the threshold. q is p with the mean of a
    level in each of its bins. The divergence is the sum of p log p - p log q over bins. As q is constant within a
    level, a level needs the sum of p over its bins only, which is a difference of the cumulative histogram. Only bins
    that two levels share are added one by one. In all matrices rows are thresholds and columns are levels.

        bins       | p0 | p1 | p2 | p3 | p4 |      5 bins, 2 levels: each is 2.5 bins wide
        levels     |     q0     |     q1    |      q0 = (p0 + p1 + p2 / 2) / 2.5; bin 2 has a part in both levels
    """
    thresholds = np.arange(LEVELS, len(normed))
    width = thresholds[:, None] / LEVELS  # bins in a level, (thresholds, 1); exact in binary, and so are its multiples
    edges = np.arange(LEVELS + 1) * width  # (thresholds, levels + 1)
    below = np.floor(edges).astype(np.intp)  # the bin that contains an edge
    fraction = edges - below  # the part of that bin below the edge
    above = below + (fraction > 0)  # the first bin above the edge
    cumulative = np.concatenate([[0.0], np.cumsum(normed)])  # (bins + 1,)
    # q: the mean of p over each level, (thresholds, levels).
    levels = np.diff(cumulative[below] + fraction * normed[np.minimum(below, len(normed) - 1)]) / width

    # Sum of p log q over the bins inside one level: log q times a difference of the cumulative histogram.
    rest = 1.0 - cumulative[thresholds]  # the share that is clipped and counted in the last bin, (thresholds,)
    whole = cumulative[below[:, 1:]] - cumulative[above[:, :-1]] + KL_EPSILON * (below[:, 1:] - above[:, :-1])
    whole[:, -1] += rest
    cross = (whole * np.log(levels + KL_EPSILON)).sum(1)
    # A bin on the edge of two levels has a part in each: its q is the mean of the two, weighted by these parts.
    left = fraction[:, 1:-1]  # (thresholds, levels - 1), one for each inner edge
    mixed = left * levels[:, :-1] + (1 - left) * levels[:, 1:] + KL_EPSILON
    shared = np.where(left > 0, normed[below[:, 1:-1]] + KL_EPSILON, 0.0)
    cross += (shared * np.log(mixed)).sum(1)

    # Sum of p log p over bins, where the last bin of p holds everything that is clipped.
    raised = normed + KL_EPSILON
    own = np.concatenate([[0.0], np.cumsum(raised * np.log(raised))])
    last = raised[thresholds - 1] + rest
    return np.asarray(own[thresholds - 1] + last * np.log(last) - cross)


def mse(histogram: np.ndarray) -> float:
    """The threshold, in bins, with the least mean squared error of rounding and clipping.

    `histogram` is (bins,). The candidates are 100 thresholds from a tenth of the range to all of it.
    """
    candidates = np.linspace(0.1, 1.0, 100) * len(histogram)
    return float(candidates[int(squared_error(histogram, candidates[:, None]).argmin())])


def squared_error(histogram: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """Sum of the squared errors of rounding and clipping, in bins squared.

    `histogram` is (bins,). For `thresholds` (rows, 1) the result is (rows,).
    """
    # A magnitude m becomes min(round(m / step), 127) * step: errors of rounding below the threshold, of clipping above.
    centers, steps = np.arange(len(histogram)) + 0.5, thresholds / (LEVELS - 1)  # (bins,) and (rows, 1)
    rounded = np.minimum(np.round(centers / steps), LEVELS - 1) * steps  # (rows, bins)
    return np.asarray(((rounded - centers) ** 2) @ histogram)
