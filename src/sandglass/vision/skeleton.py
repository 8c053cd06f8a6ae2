"""Draw COCO's seventeen keypoints."""

from __future__ import annotations

import cv2
import numpy as np

from sandglass.vision import coco17

LEFT, RIGHT, MIDDLE = (255, 138, 30), (45, 140, 255), (90, 220, 120)


def draw(picture: np.ndarray, joints: np.ndarray, area: float, visible: float) -> None:
    """Draw a person into a picture, (H, W, 3) uint8 RGB, in place: left orange, right blue.

    `joints` are (17, 3) with x, y in pixels and score; only scores above `visible` are drawn. `area` in pixels² decides
    the thickness.
    """
    thickness = max(1, round(float(np.sqrt(area)) / 90))
    for a, b in coco17.SKELETON:
        if min(joints[a, 2], joints[b, 2]) > visible:
            cv2.line(picture, _pixel(joints[a]), _pixel(joints[b]), _side((a, b)), thickness, cv2.LINE_AA, 4)
    for k in np.flatnonzero(joints[:, 2] > visible):
        radius = round(thickness * 1.6 * 16)
        cv2.circle(picture, _pixel(joints[k]), radius, (255, 255, 255), -1, cv2.LINE_AA, 4)
        cv2.circle(picture, _pixel(joints[k]), round(radius * 0.7), _side((int(k),)), -1, cv2.LINE_AA, 4)


def _pixel(joint: np.ndarray) -> tuple[int, int]:
    """A position in sixteenths of a pixel, for OpenCV's `shift` of 4."""
    return round(float(joint[0]) * 16), round(float(joint[1]) * 16)


def _side(joints: tuple[int, ...]) -> tuple[int, int, int]:
    sides = {0 if k == 0 else 1 + (k + 1) % 2 for k in joints}
    return {frozenset({1}): LEFT, frozenset({2}): RIGHT}.get(frozenset(sides), MIDDLE)
