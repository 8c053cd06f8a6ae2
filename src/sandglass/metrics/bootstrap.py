"""Intervals by resampling images (Efron's percentile bootstrap).

A resample draws as many images as there are, with replacement. The metric of each resample is computed, and the middle
95 % of these values are the interval. A paired change uses the same resamples before and after, so that images on which
both agree cancel out.

Example: of 1,000 images 700 are classified correctly before. After, 20 of them are wrong, and 10 other images are
correct: the accuracy drops by 0.01. The paired interval is much narrower than that of two independent resamples.

    >>> before = np.repeat([1.0, 0.0], [700, 300])
    >>> after = before.copy()
    >>> after[:20], after[-10:] = 0.0, 1.0
    >>> first, second = multiplicities(1000, seed=0), multiplicities(1000, seed=1)
    >>> [round(end, 3) for end in interval((first @ after - first @ before) / 1000)]
    [-0.021, 0.001]
    >>> [round(end, 3) for end in interval((second @ after - first @ before) / 1000)]
    [-0.05, 0.03]
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
CELLS = 1 << 22  # multiplicities that `means` holds in memory at once: 32 MB


def multiplicities(images: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """The number of times that each resample has each image, (resamples, images) int64; the same for the same seed."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), size=resamples)


def means(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of `values` (images, columns) over each resample of images, (resamples, columns) float64.

    Images with equal rows are drawn together. This has the same distribution, and it is fast if values are only 0 or 1.
    Memory does not grow with the number of images.
    """
    images = len(values)
    rows, counts = np.unique(values, axis=0, return_counts=True)  # (different rows, columns) and (different rows,)
    random, step = np.random.default_rng(seed), max(1, CELLS // len(rows))
    parts = (
        random.multinomial(images, counts / images, size=min(step, resamples - i)) for i in range(0, resamples, step)
    )
    return np.concatenate([part @ rows for part in parts]) / images


def interval(values: np.ndarray) -> tuple[float, float]:
    """The ends of the middle 95 % of resampled values, (resamples,).

    Values of NaN, from resamples without labels, are ignored; (nan, nan) if all values are NaN.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)
