"""Polygons of texts: make them valid, intersect them, grow and shrink them (shapely and pyclipper).

A polygon is given by its points (N, 2), x and y in pixels, in order along its outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pyclipper
import shapely

BISECTIONS = 24  # steps of the bisection in `clip`

ScoredOutline = tuple[np.ndarray, float]  # points (N, 2), and a score from 0 to 1
AnnotatedText = tuple[list[list[float]], bool]  # points, and whether the text is ignored


class DetectedText(TypedDict):
    """A detected text: the points of its outline, x and y in pixels, and a score from 0 to 1."""

    points: list[list[float]]
    score: float


def problem(points: Sequence[Sequence[float]]) -> str:
    """The defect of an outline: "fewer than 3 points", "no area" or "crosses itself"; "" if it has none."""
    if len(points) < 3:
        return "fewer than 3 points"
    outline = shapely.Polygon(points)
    if not shapely.make_valid(outline).area > 0:
        return "no area"
    return "" if outline.is_valid else "crosses itself"


def regions(outlines: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """The regions inside N outlines, (N,) valid polygons of shapely; a region without area is an empty polygon.

    An outline that crosses itself is cleaned as in mmocr's `poly_make_valid`: if it has several parts, their convex
    hull is used.
    """
    shapes = np.full(len(outlines), shapely.Polygon(), object)
    whole = [i for i, points in enumerate(outlines) if len(points) >= 3]
    if whole:
        points = np.concatenate([np.asarray(outlines[i], float) for i in whole])
        owners = np.repeat(np.arange(len(whole)), [len(outlines[i]) for i in whole])
        shapes[whole] = shapely.polygons(shapely.linearrings(points, indices=owners))
    for i in np.flatnonzero(~shapely.is_valid(shapes)):
        cleaned = shapes[i].buffer(0)
        shapes[i] = cleaned if isinstance(cleaned, shapely.Polygon) else cleaned.convex_hull
    return shapes


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The area in pixels² that each of N polygons shares with each of M, (N, M). Polygons are those of `regions`."""
    shared = np.zeros((len(first), len(second)))
    if shared.size:
        rows, columns = shapely.STRtree(second).query(first)
        shared[rows, columns] = shapely.area(shapely.intersection(first[rows], second[columns]))
    return shared


def similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The intersection over union of each of N polygons with each of M, (N, M); 0 if both are empty."""
    shared = overlaps(first, second)
    union = shapely.area(first)[:, None] + shapely.area(second) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def offset(points: np.ndarray, distance: float) -> np.ndarray | None:
    """The outline moved outwards by `distance` pixels (inwards if it is negative), with round corners, in whole pixels.

    None if it vanishes or splits into parts. Fractions of the points are truncated, as in other users of pyclipper.
    """
    clipper = pyclipper.PyclipperOffset()
    try:
        clipper.AddPath(points.astype(np.int64), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    except pyclipper.ClipperException:  # fewer than three different points
        return None
    outlines = clipper.Execute(distance)
    return np.array(outlines[0], np.float32) if len(outlines) == 1 else None


def unclip(points: np.ndarray, ratio: float) -> np.ndarray | None:
    """A shrunk outline, grown by `ratio` * area / length (Liao et al., 2019); None as in `offset`."""
    outline = shapely.Polygon(points)
    return offset(points, outline.area * ratio / outline.length) if outline.length else None


def clip(points: np.ndarray, ratio: float, margin: float = 0.0) -> np.ndarray:
    """The inverse of `unclip` for a convex outline of some pixels: the outline that `unclip` grows to this one.

    The result is smaller by a further `margin` in pixels on each side.
    """
    outline = shapely.Polygon(points)
    low, high = 0.0, float(outline.area**0.5)
    for _ in range(BISECTIONS):
        distance = (low + high) / 2
        inner = outline.buffer(-distance, join_style="mitre")
        if inner.is_empty or inner.area * ratio / inner.length < distance:
            high = distance
        else:
            low = distance
    return np.array(outline.buffer(-low - margin, join_style="mitre").exterior.coords[:-1])
