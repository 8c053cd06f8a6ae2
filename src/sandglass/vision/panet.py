"""From PANet's maps to texts by pixel aggregation (Wang et al., 2019).

The results are those of mmocr's PANPostprocessor and mmcv's pixel_group. Kernels are shrunk texts. They grow pixel by
pixel over the text regions, to pixels whose embedding is near the mean embedding of the kernel. The growth is breadth
first, one ring of pixels at a time. A whole ring at once gives the same result as pixel by pixel, because the first
neighbour in the order of the previous ring takes a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from sandglass.vision import polygon
from sandglass.vision.polygon import ScoredOutline

EMBEDDING = 4  # channels of the embedding
OUTLINES = ("quad", "polygon")
SHRINK = 0.5  # difference between a text and its kernel in `encode`, as a share of the smaller extent of the text
CERTAIN = 12.0  # logit of a probability that is 1 in practice


@dataclass(frozen=True)
class PANet:
    """The decoder of PANet's maps.

    text      probability above which a pixel is text
    kernel    probability above which a pixel of text belongs to a kernel
    box       score above which a region is a text
    distance  distance of embeddings below which a kernel takes a pixel
    area      pixels of a text, at least
    outline   "quad": the smallest rectangle around a text; "polygon": the outline of its region
    """

    channels: ClassVar[int] = 2 + EMBEDDING

    text: float = 0.5
    kernel: float = 0.5
    box: float = 0.3
    distance: float = 3.0
    area: int = 16
    outline: str = OUTLINES[0]

    def decode(self, maps: np.ndarray, scale: tuple[float, float], page: tuple[int, int]) -> list[ScoredOutline]:
        """The outline of each text, in pixels of the page, and its score from 0 to 1, from raw maps (6, h, w).

        The maps are the logits of text and of kernel, and four channels of the embedding. `scale` is the size (x, y) of
        a pixel of the map in pixels of the page, and `page` is the height and width of the page.
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
        """Maps (6, h, w) float32 that `decode` turns into these texts, whose outlines are in pixels of the map."""
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
    """Give pixels of `text` (h, w) the label of the kernel that reaches them first, in place; 0 means none.

    A kernel reaches a pixel from one of its four neighbours if the embedding of the pixel, (4, h, w), is nearer than
    `distance` to the mean embedding of the kernel.
    """
    height, width = labels.shape
    bordered = np.zeros((height + 2, width + 2), labels.dtype)  # with a border, so that all neighbours exist
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
    """The points (x, y) of each label from 1 on, (N, 2) int32."""
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
