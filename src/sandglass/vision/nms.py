"""Suppression of repeated detections of the same person (non-maximum suppression)."""

from __future__ import annotations

import numpy as np

from sandglass.vision import coco17


def oks_nms(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, threshold: float = 0.9) -> list[int]:
    """The indices of the people that remain, the best first.

    A person whose OKS with a better one is above `threshold` is removed.
    `keypoints` are (N, 17, 2) in pixels, `scores` (N,), and `areas` (N,) in pixels². OKS is the object keypoint
    similarity over all joints with the mean of both areas, as in mmpose's `oks_nms`.
    """
    order = np.argsort(-scores, kind="stable")
    survivors = []
    while order.size:
        best, others = order[0], order[1:]
        survivors.append(int(best))
        order = others[_similarity(keypoints, areas, best, others) <= threshold]
    return survivors


def _similarity(keypoints: np.ndarray, areas: np.ndarray, one: int, others: np.ndarray) -> np.ndarray:
    squared = ((keypoints[others] - keypoints[one]) ** 2).sum(axis=2)
    area = (areas[one] + areas[others, None]) / 2 + np.spacing(1)
    return np.exp(-squared / (2 * coco17.SIGMAS) ** 2 / area / 2).mean(axis=1)
