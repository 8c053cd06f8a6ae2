"""How far two arrays that should be the same are apart."""

from __future__ import annotations

import numpy as np

# Outputs that are all smaller are compared with this: near 0 one runtime's sigmoid is 0 and another's 1.4e-7, which
# says nothing about a network that has seen no more than noise.
SMALLEST = 1e-3


def relative_difference(expected: np.ndarray, actual: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute expected value; NaN where `actual` has one."""
    return float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), SMALLEST))


def correlation(expected: np.ndarray, actual: np.ndarray) -> float:
    """Pearson correlation over all elements; 1 where both are constant and equal, 0 where only one is constant."""
    a, b = (x.astype(np.float64).ravel() - x.mean(dtype=np.float64) for x in (expected, actual))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return float(np.allclose(expected, actual))
    return float(a @ b) / scale
