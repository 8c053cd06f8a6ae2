"""Intervals by resampling."""

from __future__ import annotations

import numpy as np
import pytest

from sandglass.metrics import bootstrap


def test_means_are_those_of_resampled_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and spread over resamples are those of drawing each image; equal rows, many rows and small parts alike."""
    random = np.random.default_rng(0)
    for values in (random.random((300, 2)), (random.random((300, 2)) < 0.3).astype(float)):
        plain = bootstrap.multiplicities(300, 0) @ values / 300
        for cells in (1 << 22, 700):
            monkeypatch.setattr(bootstrap, "CELLS", cells)
            found = bootstrap.means(values, 0)
            assert found.shape == (bootstrap.RESAMPLES, 2)
            np.testing.assert_allclose(found.mean(0), values.mean(0), atol=0.004)
            np.testing.assert_allclose(found.std(0), plain.std(0), rtol=0.12)
            np.testing.assert_allclose(np.cov(found.T)[0, 1], np.cov(plain.T)[0, 1], atol=2e-4)


def test_columns_are_resampled_together() -> None:
    """What is equal in each image is equal in each resample."""
    values = np.random.default_rng(0).random(50)
    found = bootstrap.means(np.stack([values, values], 1), 3)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_interval_leaves_out_what_has_no_value() -> None:
    """NaN does not count; where there is nothing else the interval is NaN."""
    assert bootstrap.interval(np.array([1.0, np.nan, 1.0])) == (1.0, 1.0)
    assert np.isnan(bootstrap.interval(np.array([np.nan]))).all()
