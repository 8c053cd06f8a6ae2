"""Intervals by resampling images (Efron's percentile bootstrap)."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000


def multiplicities(images: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each image is drawn in each resample, (resamples, images) int64; the same for the same seed."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), size=resamples)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values; NaN ones (a resample without truths) are left out, (nan, nan) if all are."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)
