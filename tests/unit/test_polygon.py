"""Polygons of text."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from sandglass.vision import polygon

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10]]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (SQUARE, ""),
        (SQUARE[::-1], ""),
        ([], "fewer than 3 points"),
        (SQUARE[:2], "fewer than 3 points"),
        ([[1, 1], [5, 5], [9, 9]], "no area"),
        ([[3, 3]] * 4, "no area"),
        (BOW_TIE, "crosses itself"),
    ],
)
def test_problems_are_told(points: list[list[float]], expected: str) -> None:
    """An outline is fine in either direction, or it has one of three defects."""
    assert polygon.problem(points) == expected


@pytest.mark.parametrize("points", [[], SQUARE[:2], [[1, 1], [5, 5], [9, 9]], [[3, 3]] * 4, BOW_TIE, SQUARE])
def test_every_outline_has_a_valid_region(points: list[list[float]]) -> None:
    """Whatever an outline is, its region can be intersected; it is empty where there is no area."""
    (found,) = polygon.regions([points])
    assert found.is_valid
    assert (found.area > 0) == (points in (BOW_TIE, SQUARE))


def test_overlaps_are_those_of_each_pair() -> None:
    """All pairs at once give what shapely gives for one after the other; far ones share nothing."""
    random = np.random.default_rng(0)
    boxes = [shapely.box(x, y, x + w, y + h) for x, y, w, h in random.uniform(5, 40, (20, 4))]
    outlines = [list(box.exterior.coords[:-1]) for box in [*boxes, shapely.box(900, 900, 901, 901)]]
    first, second = polygon.regions(outlines[:9]), polygon.regions(outlines[9:])
    shared = polygon.overlaps(first, second)
    np.testing.assert_allclose(shared, [[a.intersection(b).area for b in second] for a in first], rtol=1e-12)
    assert (shared[:, -1] == 0).all()
    expected = [[a.intersection(b).area / a.union(b).area for b in second] for a in first]
    np.testing.assert_allclose(polygon.similarities(first, second), expected, atol=1e-12)


def test_nothing_overlaps_nothing() -> None:
    """Empty sets give empty tables, and empty regions are similar to nothing, themselves included."""
    none, empty = polygon.regions([]), polygon.regions([SQUARE[:2], []])
    assert polygon.overlaps(none, empty).shape == (0, 2)
    assert polygon.similarities(empty, none).shape == (2, 0)
    np.testing.assert_array_equal(polygon.similarities(empty, empty), np.zeros((2, 2)))


def test_unclip_grows_by_area_over_length() -> None:
    """A 100 x 20 box grows on every side by 100 * 20 * 1.5 / 240 = 12.5 pixels, with round corners."""
    grown = polygon.unclip(np.array([[50.0, 50], [150, 50], [150, 70], [50, 70]]), 1.5)
    assert grown is not None
    np.testing.assert_allclose(grown.min(0), [37.5, 37.5], atol=0.5)
    np.testing.assert_allclose(grown.max(0), [162.5, 82.5], atol=0.5)
    assert shapely.Polygon(grown).area < 125 * 45


@pytest.mark.parametrize("points", [[[5, 5]] * 4, [[1, 1], [9, 1], [1, 1]]])
def test_what_has_no_area_cannot_be_unclipped(points: list[list[float]]) -> None:
    """A point or a line has no outline to move."""
    assert polygon.unclip(np.array(points, float), 1.5) is None


def test_clip_is_the_inverse_of_unclip() -> None:
    """What `clip` leaves of a turned rectangle grows to its size again, to a pixel."""
    turned = np.array([[100.0, 60], [220, 120], [200, 160], [80, 100]])
    grown = polygon.unclip(polygon.clip(turned, 1.5), 1.5)
    assert grown is not None
    assert shapely.Polygon(turned).hausdorff_distance(shapely.Polygon(grown).minimum_rotated_rectangle) < 1.5
