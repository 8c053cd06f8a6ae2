"""Measures of the difference between two arrays."""

from __future__ import annotations

import numpy as np

# The smallest denominator of a relative difference. If all outputs are near 0, for example because the input is noise,
# one runtime's sigmoid gives 0 and another's 1.4e-7. This difference is not an error.
SMALLEST = 1e-3


def relative_difference(expected: np.ndarray, actual: np.ndarray) -> float:
    """The largest absolute difference over the largest absolute expected value; NaN if `actual` contains NaN."""
    return float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), SMALLEST))


def correlation(expected: np.ndarray, actual: np.ndarray) -> float:
    """The Pearson correlation over all elements. For a constant array it is 1 if both are equal, otherwise 0."""
    a, b = (x.astype(np.float64).ravel() - x.mean(dtype=np.float64) for x in (expected, actual))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return float(np.allclose(expected, actual))
    return float(a @ b) / scale
