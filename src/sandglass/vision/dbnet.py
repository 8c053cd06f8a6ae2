"""From DBNet's probability map to text boxes (Liao et al., 2019), as in PaddleOCR.

A box is the smallest rectangle around a region above the threshold. Its score is the mean probability in it. It then
grows by `unclip`, because the network is trained on shrunk texts. Its corners are whole pixels of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from sandglass.vision import polygon
from sandglass.vision.polygon import ScoredOutline

CANDIDATES = 1000  # regions, at most
SHORTEST = 3  # shorter side of a region in the map, and of a box in the page, in pixels, at least
GROWN = SHORTEST + 2  # shorter side of a region in the map after it has grown, at least


@dataclass(frozen=True)
class DBNet:
    """The decoder of DBNet's probabilities.

    threshold  probability above which a pixel is text
    box        mean probability of a region from which it is a text
    unclip     a region grows by unclip * area / length of its outline, in pixels
    """

    channels: ClassVar[int] = 1

    threshold: float = 0.3
    box: float = 0.6
    unclip: float = 1.5

    def decode(self, maps: np.ndarray, scale: tuple[float, float], page: tuple[int, int]) -> list[ScoredOutline]:
        """The corners of each text, (4, 2) in pixels of the page, and its score from 0 to 1.

        `maps` are probabilities (1, h, w). `scale` is the size (x, y) of a pixel of the map in pixels of the page, and
        `page` is the height and width of the page.
        """
        probabilities = maps[0]
        mask = (probabilities > self.threshold).astype(np.uint8)
        texts = []
        for contour in cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0][:CANDIDATES]:
            corners, shorter = _rectangle(contour)
            if shorter < SHORTEST:
                continue
            score = mean_inside(probabilities, corners)
            grown = polygon.unclip(corners, self.unclip) if score >= self.box else None
            if grown is None:
                continue
            corners, shorter = _rectangle(grown)
            if shorter < GROWN:
                continue
            corners = np.clip(np.round(corners * scale), 0, (page[1] - 1, page[0] - 1))
            if min(np.linalg.norm(corners[0] - corners[1]), np.linalg.norm(corners[0] - corners[3])) >= SHORTEST + 1:
                texts.append((corners, score))
        return texts

    def encode(self, texts: Sequence[ScoredOutline], size: tuple[int, int]) -> np.ndarray:
        """Probabilities (1, h, w) float32 that `decode` turns into these texts, with outlines in pixels of the map.

        They are shifted by half a pixel to the lower right, because `decode` truncates fractions.
        """
        maps = np.zeros((1, *size), np.float32)
        for points, score in texts:
            shrunk = polygon.clip(points, self.unclip, margin=0.5)  # filling also covers the pixels on the edge
            cv2.fillPoly(maps[0], [(shrunk + 0.5).round().astype(np.int32)], float(score))
        return maps


def _rectangle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The corners of the smallest rectangle around points, and its shorter side."""
    rectangle = cv2.minAreaRect(points)
    return cv2.boxPoints(rectangle), min(rectangle[1])


def mean_inside(values: np.ndarray, corners: np.ndarray) -> float:
    """The mean of `values` (h, w) inside a polygon, whose points are truncated to whole pixels."""
    high = (values.shape[1] - 1, values.shape[0] - 1)
    left, top = np.clip(np.floor(corners.min(0)), 0, high).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, high).astype(int)
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, [(corners - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(values[top : bottom + 1, left : right + 1], mask)[0])
