"""Drawn scenes: a room with objects, as a small camera sees it, and annotations of the people in it."""

from __future__ import annotations

import cv2
import numpy as np

from sandglass.vision import figures
from sandglass.vision.coco_format import CocoShape

OCCLUDER = 255  # in the label map


def draw(
    random: np.random.Generator, image: np.ndarray, people: list[figures.Figure], minimum: int
) -> tuple[np.ndarray, list[CocoShape]]:
    """A background with people, the last one in front, (H, W, 3) uint8 RGB, and their COCO annotations without ids.

    A person with fewer than `minimum` visible keypoints is annotated without keypoints, as in COCO for people whose
    keypoints cannot be recognized. A person who is not visible at all is left out.
    """
    labels = np.zeros(image.shape[:2], np.uint8)
    for number, figure in enumerate(people):
        figures.draw(image, labels, figure, number)
    _occluders(random, image, labels)
    annotations = [_annotation(figure, labels, number, minimum) for number, figure in enumerate(people)]
    return _camera(random, image), [person for person in annotations if person is not None]


def _annotation(figure: figures.Figure, labels: np.ndarray, person: int, minimum: int) -> CocoShape | None:
    """The COCO annotation from the visible pixels of a person; None if there are none."""
    of_person = labels // figures.LABELS_A_PERSON == person
    mask = of_person & (labels % figures.LABELS_A_PERSON > 0) & (labels != OCCLUDER)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    towards_viewer = [*figures.face_shown(figure), *[True] * 12]
    flags = [_visibility(point, shown_by if towards else (), labels, person) for point, shown_by, towards in
             zip(figure.joints, figures.SHOWN_BY, towards_viewer, strict=True)]  # fmt: skip
    if flags.count(2) < minimum:
        flags = [0] * len(flags)
    keypoints = [
        [round(float(x), 2), round(float(y), 2), flag] if flag else [0, 0, 0]
        for (x, y, _), flag in zip(figure.joints, flags, strict=True)
    ]
    left, top = int(columns[0]), int(rows[0])
    return {
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": [value for point in keypoints for value in point],
        "num_keypoints": sum(flag > 0 for flag in flags),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "area": int(mask.sum()),
    }


def _visibility(point: np.ndarray, shown_by: tuple[int, ...], labels: np.ndarray, person: int) -> int:
    """COCO's flag of a keypoint: 0 outside the image, 1 hidden, 2 visible.

    It is visible if one of the parts `shown_by` is in front at its pixel or next to it.
    """
    column, row = int(np.floor(point[0])), int(np.floor(point[1]))
    if not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]):
        return 0
    around = labels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    parts = [person * figures.LABELS_A_PERSON + part for part in shown_by]
    return 2 if np.isin(around, parts).any() else 1


def background(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A wall and a floor with gradients, objects and texture, (H, W, 3) uint8 RGB of `size` (height, width)."""
    height, width = size
    horizon = int(height * random.uniform(0.45, 0.8))
    colours = random.integers(50, 235, (4, 3)).astype(np.float32)
    rows = np.concatenate([
        np.linspace(0, 1, horizon)[:, None] * (colours[1] - colours[0]) + colours[0],
        np.linspace(0, 1, height - horizon)[:, None] * (colours[3] - colours[2]) + colours[2],
    ])  # fmt: skip
    image = np.ascontiguousarray(np.broadcast_to(rows[:, None], (height, width, 3)).astype(np.uint8))
    for _ in range(random.integers(3, 12)):
        _thing(random, image, float(random.uniform(8, 70)), int(random.integers(0, height)))
    grain = random.integers(-12, 13, (height // 4, width // 4, 1)).astype(np.int16)
    return cv2.add(image, cv2.resize(grain, (width, height))[..., None].repeat(3, 2), dtype=cv2.CV_8U)


def _occluders(random: np.random.Generator, image: np.ndarray, labels: np.ndarray) -> None:
    """Draw zero to two objects in front of the people, into the image and its label map."""
    for _ in range(int(random.choice([0, 1, 2], p=[0.55, 0.35, 0.1]))):
        before = image.copy()
        _thing(random, image, float(random.uniform(10, 32)), int(random.integers(100, len(image))))
        labels[(before != image).any(axis=2)] = OCCLUDER


def _thing(random: np.random.Generator, image: np.ndarray, size: float, row: int) -> None:
    """Draw a box, a ball, a pole or a plant, with shading."""
    column = int(random.integers(0, image.shape[1]))
    colour = random.integers(20, 240, 3)
    lit = tuple(int(c) for c in colour)
    dark = tuple(int(c * 0.7) for c in colour)
    kind = random.integers(4)
    half = max(2, int(size / 2))
    if kind == 0:
        tall = int(size * random.uniform(0.5, 1.6))
        cv2.rectangle(image, (column - half, row - tall), (column + half, row), lit, -1)
        cv2.rectangle(image, (column, row - tall), (column + half, row), dark, -1)
    elif kind == 1:
        cv2.circle(image, (column, row), half, dark, -1, cv2.LINE_AA)
        cv2.circle(image, (column - half // 4, row - half // 4), int(half * 0.7), lit, -1, cv2.LINE_AA)
    elif kind == 2:
        cv2.line(image, (column, row - int(size * 3)), (column + int(random.normal(0, 8)), row), lit, max(2, half // 3))
    else:
        for _ in range(9):
            tip = (column + int(random.normal(0, size / 2)), row - int(abs(random.normal(0, size))))
            cv2.line(image, (column, row), tip, lit if random.random() < 0.5 else dark, 2, cv2.LINE_AA)


def _camera(random: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image with the blur, exposure and noise of a small camera."""
    blurred = cv2.GaussianBlur(image, (0, 0), float(random.uniform(0.4, 1.0)))
    noise = random.normal(0, random.uniform(1, 6), image.shape[:2]).astype(np.float32)[..., None]
    gain, bias = random.uniform(0.85, 1.15), random.uniform(-15, 15)
    return np.clip(blurred * np.float32(gain) + np.float32(bias) + noise, 0, 255).astype(np.uint8)
