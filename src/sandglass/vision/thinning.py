"""Thin regions to lines of one pixel (Zhang and Suen, 1984), with the same results as scikit-image's `skeletonize`."""

from __future__ import annotations

import cv2
import numpy as np

# The bit of each neighbour, clockwise from the one above.
NEIGHBOURS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
SIDES = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
# The differences of scikit-image from the paper: corners of stairs are removed, and the ends of two-pixel diagonals
# stay longer. The key is the neighbours that a pixel has. The value is 1 if the first half of a pass removes the pixel,
# 2 for the second half, 3 for both, and 0 for neither.
DEPARTURES = {
    "N E": 3, "E S": 3, "S W": 3, "N W": 3,
    "N NE": 1, "NE E": 1, "E SE": 2, "SE S": 0, "S SW": 2, "SW W": 2, "W NW": 0, "N NW": 1,
    "N NE E": 1, "E SE S": 2, "S SW W": 2, "N W NW": 1,
    "N E NW": 1, "N E SE": 2, "E S SW": 2, "S W NW": 1, "SE S W": 2, "N NE W": 1, "N SW W": 1,
    "NE E S SW": 2, "N NE SW W": 1,
}  # fmt: skip


def _removable() -> np.ndarray:
    """For each pattern of neighbours (256,): bit 0 if the first half of a pass removes the pixel, bit 1: the second."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    count = bits.sum(1)
    starts = ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(1)
    edge = (count >= 2) & (count <= 6) & (starts == 1)
    up, right, down, left = (bits[:, SIDES.index(side)] == 0 for side in "NESW")
    table = edge * (1 * (right | down | (up & left)) + 2 * (left | up | (right & down)))
    for sides, halves in DEPARTURES.items():
        table[sum(1 << SIDES.index(side) for side in sides.split())] = halves
    return table


REMOVABLE = _removable()


def thin(mask: np.ndarray) -> np.ndarray:
    """The skeleton of a mask (h, w), (h, w) bool; connected parts of the mask stay connected."""
    pixels = np.pad(mask.astype(np.uint8), 1)
    remaining = -1
    while remaining != (remaining := cv2.countNonZero(pixels)):
        for half in (1, 2):
            patterns = cv2.filter2D(pixels, cv2.CV_16S, NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
            pixels[(REMOVABLE[patterns] & half) > 0] = 0
    return pixels[1:-1, 1:-1] > 0
