"""Heatmaps to keypoints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.vision import coco17, heatmap


def peak(x: int, y: int, right: float = 0.0, below: float = 0.0) -> np.ndarray:
    """Heatmaps (1, 1, 16, 12) with one peak, and values to its right and below it."""
    maps = np.zeros((1, 1, 16, 12), np.float32)
    maps[0, 0, y, x] = 1
    maps[0, 0, y, min(x + 1, 11)] += right
    maps[0, 0, min(y + 1, 15), x] += below
    return maps


@pytest.mark.parametrize(
    ("right", "below", "expected"),
    [(0.5, 0.5, (5.25, 7.25)), (-0.5, 0.5, (4.75, 7.25)), (0.0, -0.5, (5.0, 6.75)), (0.0, 0.0, (5.0, 7.0))],
)
def test_peak_moves_a_quarter_towards_its_larger_neighbour(
    right: float, below: float, expected: tuple[float, float]
) -> None:
    """Each axis moves by a quarter of a heatmap pixel, or not at all between equals; input pixels are four times."""
    places, scores = heatmap.decode(peak(5, 7, right, below), (64, 48))
    np.testing.assert_array_equal(places[0, 0], np.array(expected) * 4)
    assert scores[0, 0] == 1


@pytest.mark.parametrize(("x", "y"), [(0, 0), (11, 15), (0, 7), (5, 0)])
def test_peak_at_the_border_stays_inside(x: int, y: int) -> None:
    """A peak in the outermost row or column is not moved outwards."""
    places, _ = heatmap.decode(peak(x, y), (64, 48))
    np.testing.assert_array_equal(places[0, 0], [4 * x, 4 * y])


def test_empty_heatmap_has_no_place() -> None:
    """Without a positive value the keypoint lies outside the heatmap, with the score it has."""
    places, scores = heatmap.decode(np.full((2, 17, 16, 12), -0.5, np.float32), (64, 48))
    assert (places == -4).all()
    assert (scores == -0.5).all()


@pytest.mark.parametrize(("method", "error"), [("quarter", 1.0), ("dark", 0.02), ("udp", 0.02)])
def test_keypoints_come_back_as_near_as_the_method_allows(method: str, error: float) -> None:
    """Between pixels a quarter offset is within a quarter of a heatmap pixel, a parabola within a hundredth."""
    keypoints = np.random.default_rng(0).uniform([30, 30], [160, 220], (20, 17, 2))
    maps = heatmap.encode(keypoints, np.ones((20, 17)), (256, 192), method=method)
    places, _ = heatmap.decode(maps, (256, 192), method)
    assert np.abs(places - keypoints).max() <= error


@pytest.mark.parametrize("method", ["dark", "udp"])
def test_the_kernels_size_reaches_the_parabola(method: str) -> None:
    """With noise on the heatmaps keypoints move by a fraction of a pixel, by another one with another kernel."""
    keypoints = np.random.default_rng(1).uniform([60, 60], [130, 190], (20, 17, 2))
    maps = heatmap.encode(keypoints, np.ones((20, 17)), (256, 192), method=method)
    maps += np.random.default_rng(2).uniform(0, 0.1, maps.shape).astype(np.float32)
    narrow, wide = (heatmap.decode(maps, (256, 192), method, blur)[0] for blur in heatmap.BLURS)
    assert np.abs(narrow - keypoints).max() < 1
    assert np.abs(wide - keypoints).max() < 1
    assert np.abs(narrow - wide).mean() > 0.02


@pytest.mark.parametrize("method", heatmap.METHODS)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_a_batch_is_decoded_as_its_members(method: str, seed: int, count: int) -> None:
    """Decoding several people at once gives what each gives alone, and leaves the heatmaps as they were."""
    maps = np.random.default_rng(seed).standard_normal((count, 17, 16, 12)).astype(np.float32)
    before = maps.copy()
    places, scores = heatmap.decode(maps, (64, 48), method)
    np.testing.assert_array_equal(maps, before)
    for i in range(count):
        alone, score = heatmap.decode(maps[i : i + 1], (64, 48), method)
        np.testing.assert_allclose(alone[0], places[i], rtol=1e-6)
        np.testing.assert_array_equal(score[0], scores[i])


def test_flipping_twice_is_the_identity() -> None:
    """Mirroring back is its own inverse, leaves its argument alone, and exchanges left and right."""
    maps = np.random.default_rng(0).standard_normal((2, 17, 16, 12)).astype(np.float32)
    before = maps.copy()
    once = heatmap.flip_back(maps, coco17.FLIP_PAIRS)
    np.testing.assert_array_equal(once[:, 5], maps[:, 6, :, ::-1])
    np.testing.assert_array_equal(heatmap.flip_back(once, coco17.FLIP_PAIRS), maps)
    heatmap.flip_back(maps, coco17.FLIP_PAIRS, shift=True)
    np.testing.assert_array_equal(maps, before)
