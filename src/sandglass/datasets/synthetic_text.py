"""Drawn words with exact corners: pages are drawn at run time from a seed, and no files are needed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.core.image_ids import Id
from sandglass.datasets import Conditions, Options, TextDataset
from sandglass.vision.polygon import AnnotatedText

KIND = TextDataset
class_names = None  # its images have no classes
SIZE = (256, 320)  # height, width
SPLITS = {"train": 1, "test": 2}
IMAGES = {"train": 2000, "test": 100}
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
LETTERS = list("ABCDEFGHIKLMNOPRSTUVWXYZabcdeghklmnorstuvxz0123456789")
PAD = 4  # pixels around a word before it is warped into the page
ILLEGIBLE = 0.15  # share of words that are ignored


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> TextDataset:
    """The first `limit` pages of a split (default: 100 for test). The two splits have different pages.

    Raises DatasetError for paths, an unknown split, or a limit below 1.
    """
    if any(option is not None for option in (images, annotations, detections)):
        raise DatasetError("synthetic-text is drawn at run time and takes no files", "leave out the paths")
    if split not in SPLITS:
        raise DatasetError(f"synthetic-text has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "use 1 or more, or no limit for the whole split")
    count = IMAGES[split] if limit is None else limit
    texts: dict[Id, list[AnnotatedText]] = {
        f"{split}-{index}": list(render(index, split, seed)[1]) for index in range(count)
    }
    places = {name: index for index, name in enumerate(texts)}
    protocol: Conditions = {"dataset": f"synthetic-text, {split} split, seed {seed}", "subset": f"first {count} images"}
    return TextDataset("synthetic-text", texts, lambda name: render(places[name], split, seed)[0].copy(), protocol)


def example(folder: Path) -> Options:
    """Options for a few pages; this writes nothing."""
    return {"limit": 6}


@lru_cache(maxsize=256)  # 63 MB
def render(index: int, split: str, seed: int) -> tuple[np.ndarray, tuple[AnnotatedText, ...]]:
    """A page, (H, W, 3) uint8 RGB, and its words: corners in reading order, and whether the word is illegible."""
    random = np.random.default_rng([seed, SPLITS[split], index])
    page = _paper(random)
    taken = np.zeros(SIZE, np.uint8)
    texts = [_word(random, page, taken) for _ in range(random.integers(4, 12))]
    noise = random.normal(0, random.uniform(1, 6), SIZE).astype(np.float32)[..., None]
    return np.clip(page + noise, 0, 255).astype(np.uint8), tuple(text for text in texts if text is not None)


def _paper(random: np.random.Generator) -> np.ndarray:
    """A background with a gradient and a few patches, (H, W, 3) float32."""
    colours = random.uniform(120, 245, (2, 3))
    page = np.linspace(colours[0], colours[1], SIZE[0])[:, None].repeat(SIZE[1], 1).astype(np.float32)
    for _ in range(random.integers(0, 5)):
        corner = random.integers(0, (SIZE[1], SIZE[0]))
        colour = [float(value) for value in random.uniform(100, 250, 3)]
        cv2.rectangle(page, corner, corner + random.integers(20, 120, 2), colour, -1)
    return page


def _word(random: np.random.Generator, page: np.ndarray, taken: np.ndarray) -> AnnotatedText | None:
    """Draw a word at a random place; None if another word or the edge of the page is there."""
    font, height = int(random.choice(FONTS)), float(random.uniform(26, 56))
    word = "".join(random.choice(LETTERS, random.integers(3, 8)))
    (width, tall), below = cv2.getTextSize(word, font, 1, 2)
    ink = np.zeros((tall + below + 2 * PAD, width + 2 * PAD), np.uint8)
    cv2.putText(ink, word, (PAD, PAD + tall), font, 1, 255, 2, cv2.LINE_AA)
    scale, angle = height / ink.shape[0], random.normal(0, 0.15)
    centre = random.uniform(0.1, 0.9, 2) * (SIZE[1], SIZE[0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([turn, centre - turn @ (np.array(ink.shape[::-1]) / 2)])
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * ink.shape[::-1] @ turn.T + matrix[:, 2]
    place = cv2.fillPoly(np.zeros(SIZE, np.uint8), [corners.round().astype(np.int32)], 1)
    place = cv2.dilate(place, np.ones((9, 9), np.uint8))
    if (corners < 2).any() or (corners > (SIZE[1] - 3, SIZE[0] - 3)).any() or (place & taken).any():
        return None
    taken |= place
    illegible = bool(random.random() < ILLEGIBLE)
    shown = cv2.warpAffine(ink, matrix, (SIZE[1], SIZE[0]), flags=cv2.INTER_AREA)
    shown = cv2.GaussianBlur(shown, (0, 0), 5 if illegible else 0.6)[..., None]
    page += shown / np.float32(255) * (random.uniform(0, 90, 3) - page)
    return corners.round(2).tolist(), illegible
