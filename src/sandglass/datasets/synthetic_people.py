"""Drawn people with exact keypoints, made at run time: nothing is shipped, everything follows from a seed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sandglass.datasets import KeypointDataset
from sandglass.errors import DatasetError
from sandglass.vision import coco17, figures

SIZE = (256, 320)
SPLITS = {"train": 1, "test": 2}
IMAGES = {"train": 6000, "test": 200}
OCCLUDER = 255
MINIMUM_KEYPOINTS = 5


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> KeypointDataset:
    """The first `limit` images of a split (200 for test). The two splits share no figure.

    Raises DatasetError when files are given (this dataset has none), the split has another name, or the limit is
    below 1.
    """
    if any(option is not None for option in (images, annotations, detections)):
        raise DatasetError("synthetic-people is drawn at run time and takes no files", "leave the paths out")
    if split not in SPLITS:
        raise DatasetError(f"synthetic-people has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "give 1 or more, or none for the whole split")
    count = IMAGES[split] if limit is None else limit
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [coco17.CATEGORY]}
    for index in range(count):
        height, width = SIZE
        coco["images"].append({"id": index, "file_name": f"{split}-{index}", "height": height, "width": width})
        for person in render(index, split, seed)[1]:
            coco["annotations"].append({"id": len(coco["annotations"]) + 1, "image_id": index, **person})
    protocol = {"dataset": f"synthetic-people, {split} split, seed {seed}", "boxes": "ground truth",
                "subset": f"first {count} images", **({"partial": True} if count < IMAGES[split] else {})}  # fmt: skip
    return KeypointDataset("synthetic-people", coco, lambda index: render(index, split, seed)[0].copy(), protocol)


def example(folder: Path) -> dict[str, Any]:
    """Options for a few images; nothing is written."""
    return {"limit": 6}


@lru_cache(maxsize=256)  # 63 MB: drawing costs ten times more than what is done with an image
def render(index: int, split: str, seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Image `index` of a split, HWC uint8 RGB, and its people as COCO annotations without ids."""
    random = np.random.default_rng([seed, SPLITS[split], index])
    image = _background(random)
    labels = np.zeros(SIZE, np.uint8)
    people = _people(random)
    for number, figure in enumerate(people):
        figures.draw(image, labels, figure, number)
    _occluders(random, image, labels)
    image = _camera(random, image)
    found = [_annotation(figure, labels, number) for number, figure in enumerate(people)]
    return image, [person for person in found if person is not None]


def _people(random: np.random.Generator) -> list[figures.Figure]:
    """One to three people, the nearest (lowest in the image) last."""
    height, width = SIZE
    count = int(random.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    slots = random.permutation(count)
    placed = []
    for slot in slots:
        x = width * (slot + 0.5) / count + random.normal(0, 0.12 * width / count)
        tall = random.uniform(0.45, 0.88) * height
        foot = min(height - 6 + random.normal(0, 8), tall + 30 + random.uniform(0, height))
        placed.append(figures.random_figure(random, (x, min(foot, height + 12)), tall))
    return sorted(placed, key=lambda figure: float(figure.joints[:, 1].max()))


def _annotation(figure: figures.Figure, labels: np.ndarray, person: int) -> dict[str, Any] | None:
    """COCO annotation from the visible pixels of a person; None where too little of it is left."""
    own = labels // figures.LABELS_A_PERSON == person
    mask = own & (labels % figures.LABELS_A_PERSON > 0) & (labels != OCCLUDER)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    towards_viewer = [*figures.face_shown(figure), *[True] * 12]
    flags = [_visibility(point, shown_by if towards else (), labels, person) for point, shown_by, towards in
             zip(figure.joints, figures.SHOWN_BY, towards_viewer, strict=True)]  # fmt: skip
    if sum(flag > 0 for flag in flags) < MINIMUM_KEYPOINTS or flags.count(2) < MINIMUM_KEYPOINTS:
        return None
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
    """COCO's flag: 0 outside the image, 1 hidden, 2 when the topmost part at the keypoint is one that shows it."""
    column, row = int(np.floor(point[0])), int(np.floor(point[1]))
    if not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]):
        return 0
    around = labels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    wanted = [person * figures.LABELS_A_PERSON + part for part in shown_by]
    return 2 if np.isin(around, wanted).any() else 1


def _background(random: np.random.Generator) -> np.ndarray:
    """A wall and a floor with gradients, clutter and texture."""
    height, width = SIZE
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
    """Sometimes something stands in front."""
    for _ in range(int(random.choice([0, 1, 2], p=[0.55, 0.35, 0.1]))):
        before = image.copy()
        _thing(random, image, float(random.uniform(10, 32)), int(random.integers(100, SIZE[0])))
        labels[(before != image).any(axis=2)] = OCCLUDER


def _thing(random: np.random.Generator, image: np.ndarray, size: float, row: int) -> None:
    """A box, a ball, a pole or a plant, shaded."""
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
    """Blur, exposure and noise of a small camera."""
    blurred = cv2.GaussianBlur(image, (0, 0), float(random.uniform(0.4, 1.0)))
    noise = random.normal(0, random.uniform(1, 6), image.shape[:2]).astype(np.float32)[..., None]
    gain, bias = random.uniform(0.85, 1.15), random.uniform(-15, 15)
    return np.clip(blurred * np.float32(gain) + np.float32(bias) + noise, 0, 255).astype(np.uint8)
