"""How far two arrays that should be the same are apart."""

from __future__ import annotations

import numpy as np


def relative_difference(expected: np.ndarray, actual: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute expected value; NaN where `actual` has one."""
    return float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def correlation(expected: np.ndarray, actual: np.ndarray) -> float:
    """Pearson correlation over all elements; 1 where both are constant and equal, 0 where only one is constant."""
    a, b = (x.astype(np.float64).ravel() - x.mean(dtype=np.float64) for x in (expected, actual))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return float(np.allclose(expected, actual))
    return float(a @ b) / scale
