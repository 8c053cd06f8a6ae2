"""From TextSnake's maps to texts by disks along a center line (Long et al., 2018), as mmocr's TextSnakePostprocessor.

The skeleton of each center region is moved to the middle between the two sides of the region. Each of its points gets a
disk with the predicted radius, and the outline of all disks is the text. If they do not touch, the largest part counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from sandglass.vision.polygon import ScoredOutline
from sandglass.vision.thinning import thin

STEP = 0.03  # length of a step to the side of a region, in radii
STEPS = 200  # steps, at most: with a radius of 0 a point would never reach the side
POINTS = 5  # points of an outline, at least
BAND = 0.3  # half the width of the center region in `encode`, in radii
CERTAIN = 12.0  # logit of a probability that is 1 in practice


@dataclass(frozen=True)
class TextSnake:
    """The decoder of TextSnake's maps.

    center   probability above which a pixel belongs to a center region
    area     pixels of a center region, at least
    overlap  distance of two disks, as a share of the sum of their radii, up to which they are merged
    grow     factor for the radii
    """

    channels: ClassVar[int] = 5

    center: float = 0.2
    area: int = 30
    overlap: float = 0.03
    grow: float = 1.03

    def decode(self, maps: np.ndarray, scale: tuple[float, float], page: tuple[int, int]) -> list[ScoredOutline]:
        """The outline of each text, in pixels of the page, and its score from 0 to 1, from raw maps (5, h, w).

        The maps are the logits of text and of center, the sine and cosine of the direction of the text, and its radius
        in pixels of the map. `scale` is the size (x, y) of a pixel of the map in pixels of the page, and `page` is the
        height and width of the page.
        """
        text = _sigmoid(maps[0])
        center = _sigmoid(maps[1]) * text
        mask = (center > self.center).astype(np.uint8)
        texts = []
        for contour in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
            if cv2.contourArea(contour) < self.area:
                continue
            places = center_line(contour, maps)
            radii = maps[4, places[:, 1], places[:, 0]] * self.grow
            disks = np.column_stack([places, radii, center[places[:, 1], places[:, 0]]])
            outline, score = _outline(merged(disks, self.overlap), text)
            if len(outline) >= POINTS and cv2.contourArea(outline) > 0:
                texts.append((outline * scale, score))
        return texts

    def encode(self, texts: Sequence[ScoredOutline], size: tuple[int, int]) -> np.ndarray:
        """Maps (5, h, w) float32 that `decode` turns into these texts, whose outlines are in pixels of the map.

        The first half of an outline's points is one side of the text, and the second half is the other side, backwards.
        """
        maps = np.zeros((self.channels, *size), np.float32)
        maps[:2] = -CERTAIN
        for points, score in texts:
            first, second = points[: len(points) // 2], points[: (len(points) - 1) // 2 : -1]
            middle, across = (first + second) / 2, (second - first) / 2
            radii = np.linalg.norm(across, axis=1)
            along = np.gradient(middle, axis=0)
            along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
            line = middle.copy()  # shortened at both ends: a disk at the end of the text would extend beyond it
            line[0], line[-1] = middle[0] + along[0] * radii[0] / 2, middle[-1] - along[-1] * radii[-1] / 2
            band = np.concatenate([line - BAND * across, (line + BAND * across)[::-1]])
            cv2.fillPoly(
                maps[0], [points.round().astype(np.int32)], float(np.log(score / (1 - score))) if score < 1 else CERTAIN
            )
            cv2.fillPoly(maps[1], [band.round().astype(np.int32)], CERTAIN)
            for i in range(len(middle) - 1):
                piece = np.concatenate([first[i : i + 2], second[i : i + 2][::-1]]).round().astype(np.int32)
                values = (along[i, 1], along[i, 0], (radii[i] + radii[i + 1]) / 2)
                for channel, value in zip(maps[2:], values, strict=True):
                    cv2.fillPoly(channel, [piece], float(value))
        return maps


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


def center_line(contour: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Points (x, y) in the middle of a center region, (N, 2) int: its skeleton, moved along the normals of the text."""
    left, top, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height + 2, width + 2), np.uint8)  # with a border, so that points can leave the region
    cv2.drawContours(inside, [contour], -1, 1, -1, offset=(1 - left, 1 - top))
    rows, columns = np.nonzero(thin(inside))
    sine, cosine, radius = maps[2:, rows + top - 1, columns + left - 1].astype(float)
    normals = np.stack([-sine, cosine], 1) / np.sqrt(sine**2 + cosine**2 + 1e-8)[:, None]
    step = STEP * radius[:, None] * normals
    start = np.stack([columns, rows], 1).astype(float)
    middle = (_walk(start, step, inside) + _walk(start, -step, inside)) / 2
    return np.add(middle, (left - 1, top - 1)).astype(int)


def _walk(start: np.ndarray, step: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The last points (x, y) inside a mask on straight ways from `start` (N, 2), each with its own `step` (N, 2)."""
    places, limits = start, np.array(inside.shape[::-1]) - 1
    for _ in range(STEPS):
        columns, rows = np.clip((places + step).astype(int), 0, limits).T
        moving = inside[rows, columns] > 0
        if not moving.any():
            break
        places = places + moving[:, None] * step
    return places


def merged(disks: np.ndarray, overlap: float) -> np.ndarray:
    """Disks (x, y, radius, score), (N, 4), after merging: fewer rows.

    Disks nearer to a better one than `overlap` times the sum of both radii are merged with it: their mean remains.
    """
    remaining, means = disks[np.argsort(-disks[:, 3], kind="stable")], []
    while len(remaining):
        distance = np.hypot(remaining[:, 0] - remaining[0, 0], remaining[:, 1] - remaining[0, 1])
        same = distance <= (remaining[:, 2] + remaining[0, 2]) * overlap
        same[0] = True
        means.append(remaining[same].mean(0))
        remaining = remaining[~same]
    return np.array(means)


def _outline(disks: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, float]:
    """The outline (x, y), (N, 2), of the largest part covered by the disks, and the mean score of text in all disks."""
    shapes = disks[disks[:, 2] > 1, :3].astype(int)
    if not len(shapes):
        return np.empty((0, 2)), 0.0
    places, radii = shapes[:, :2], shapes[:, 2:]
    left, top = np.maximum((places - radii).min(0), 0)
    right, bottom = np.minimum((places + radii).max(0), (text.shape[1] - 1, text.shape[0] - 1))
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    for x, y, radius in shapes.tolist():
        cv2.circle(mask, (x - int(left), y - int(top)), radius, 1, -1)
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    largest = max(contours, key=cv2.contourArea)[:, 0] + (left, top)
    return largest.astype(np.int32), float(text[top : bottom + 1, left : right + 1][mask > 0].mean())
