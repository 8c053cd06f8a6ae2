"""Intervals by resampling images (Efron's percentile bootstrap)."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
CELLS = 1 << 22  # multiplicities in memory at once, where they are used up as they are drawn


def multiplicities(images: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each image is drawn in each resample, (resamples, images) int64; the same for the same seed."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), size=resamples)


def means(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of `values` (images, columns) over each resample of images, (resamples, columns).

    Images with equal rows are drawn together, which is the same draw and fast where the values are right or wrong;
    memory does not grow with the images.
    """
    images = len(values)
    rows, counts = np.unique(values, axis=0, return_counts=True)
    random, step = np.random.default_rng(seed), max(1, CELLS // len(rows))
    parts = (
        random.multinomial(images, counts / images, size=min(step, resamples - i)) for i in range(0, resamples, step)
    )
    return np.concatenate([part @ rows for part in parts]) / images


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values; NaN ones (a resample without truths) are left out, (nan, nan) if all are."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)
