"""PANet's maps to texts by pixel aggregation (Wang et al., 2019), as mmocr's PANPostprocessor and mmcv's pixel_group.

Kernels, the shrunk texts, grow pixel by pixel over the text regions as long as a pixel's embedding is near the mean one
of the kernel. Breadth first, one ring of pixels at a time: all of a ring at once gives what one by one would, since
the first to reach a pixel in the order of the ring before takes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from sandglass.vision import polygon
from sandglass.vision.polygon import ScoredOutline

EMBEDDING = 4
OUTLINES = ("quad", "polygon")
SHRINK = 0.5  # what `encode` takes from a text to its kernel, in shares of its smaller extent
CERTAIN = 12.0  # a logit that is as good as 1


@dataclass(frozen=True)
class PANet:
    """How PANet's maps become texts.

    A pixel of a probability above `text` is text, and above `kernel` part of a kernel. A kernel takes the pixels whose
    embeddings are nearer than `distance`. A text has at least `area` pixels and a score above `box`. Its outline is the
    smallest rectangle around it (`outline` "quad") or the region's own ("polygon").
    """

    channels: ClassVar[int] = 2 + EMBEDDING

    text: float = 0.5
    kernel: float = 0.5
    box: float = 0.3
    distance: float = 3.0
    area: int = 16
    outline: str = OUTLINES[0]

    def decode(self, maps: np.ndarray, scale: tuple[float, float], page: tuple[int, int]) -> list[ScoredOutline]:
        """Outline in pixels of the page and score from 0 to 1 of each text in raw maps (6, h, w).

        The maps are logits of text and of kernel, and an embedding of 4. `scale` is the size of a pixel of the map in
        the page (x, y), `page` the page's height and width.
        """
        text = maps[0] > _logit(self.text)
        kernel = text & (maps[1] > _logit(self.kernel))
        labels = cv2.connectedComponents(kernel.astype(np.uint8), connectivity=4)[1]
        grow(labels, text, maps[2:], self.distance)
        outline = _rectangle if self.outline == "quad" else _contour
        texts = []
        for points in _regions(labels):
            score = float((1 / (1 + np.exp(-maps[0, points[:, 1], points[:, 0]]))).mean())
            if len(points) >= self.area and score > self.box:
                corners = outline(points)
                if len(corners) >= 4:
                    texts.append((corners * scale, score))
        return texts

    def encode(self, texts: Sequence[ScoredOutline], size: tuple[int, int]) -> np.ndarray:
        """Maps (6, h, w) float32 that `decode` reads as these texts, given in pixels of the map."""
        maps = np.zeros((self.channels, *size), np.float32)
        maps[:2] = -CERTAIN
        for number, (points, score) in enumerate(texts):
            whole = cv2.fillPoly(np.zeros(size, np.uint8), [points.round().astype(np.int32)], 1) > 0
            extent = min(cv2.minAreaRect(points.astype(np.float32))[1])
            inner = polygon.offset(points, -SHRINK * extent / 2)
            maps[0, whole] = min(_logit(score), CERTAIN) if score < 1 else CERTAIN
            if inner is not None:
                cv2.fillPoly(maps[1], [inner.astype(np.int32)], CERTAIN)
            maps[2:, whole] = 0
            maps[2 + number % EMBEDDING, whole] = self.distance * (2 + number // EMBEDDING)
        return maps


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def grow(labels: np.ndarray, text: np.ndarray, embeddings: np.ndarray, distance: float) -> None:
    """Give pixels (h, w) of text the label of the kernel that reaches them first, in place; 0 is none.

    A pixel is reached from one of its four neighbours, where its embedding (4, h, w) is nearer than `distance` to the
    mean of the kernel's.
    """
    height, width = labels.shape
    bordered = np.zeros((height + 2, width + 2), labels.dtype)  # so that no neighbour is outside
    bordered[1:-1, 1:-1] = labels
    owners = bordered.ravel()
    free = np.pad(text, 1).ravel() & (owners == 0)
    vectors = np.pad(embeddings, ((0, 0), (1, 1), (1, 1))).reshape(len(embeddings), -1).T
    ring = np.flatnonzero(owners)
    counts = np.maximum(np.bincount(owners[ring]), 1)
    means = np.stack([np.bincount(owners[ring], vector[ring]) / counts for vector in vectors.T], 1).astype(np.float32)
    steps = np.array([-1, 1, -(width + 2), width + 2])
    while ring.size:
        reached, source = (ring[:, None] + steps).ravel(), owners[ring].repeat(len(steps))
        joins = free[reached]
        reached, source = reached[joins], source[joins]
        joins = ((vectors[reached] - means[source]) ** 2).sum(1) < distance**2
        reached, source = reached[joins], source[joins]
        first = np.sort(np.unique(reached, return_index=True)[1])
        ring = reached[first]
        owners[ring] = source[first]
        free[ring] = False
    labels[:] = bordered[1:-1, 1:-1]


def _regions(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Points x, y (N, 2) int32 of each label from 1."""
    rows, columns = np.nonzero(labels)
    owners = labels[rows, columns]
    order = np.argsort(owners, kind="stable")
    points = np.stack([columns, rows], 1).astype(np.int32)[order]
    if len(points):
        yield from np.split(points, np.flatnonzero(np.diff(owners[order])) + 1)


def _rectangle(points: np.ndarray) -> np.ndarray:
    return cv2.boxPoints(cv2.minAreaRect(points))


def _contour(points: np.ndarray) -> np.ndarray:
    corner = points.min(0)
    mask = np.zeros(points.max(0)[::-1] - corner[::-1] + 1, np.uint8)
    mask[tuple((points - corner).T[::-1])] = 1
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    return contours[0][:, 0] + corner
