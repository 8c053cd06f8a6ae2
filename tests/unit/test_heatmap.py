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


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_a_batch_is_decoded_as_its_members(seed: int, count: int) -> None:
    """Decoding several people at once gives what each gives alone."""
    maps = np.random.default_rng(seed).standard_normal((count, 17, 16, 12)).astype(np.float32)
    places, scores = heatmap.decode(maps, (64, 48))
    for i in range(count):
        alone, score = heatmap.decode(maps[i : i + 1], (64, 48))
        np.testing.assert_array_equal(alone[0], places[i])
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
