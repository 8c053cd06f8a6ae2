"""Heatmaps to keypoints, vectorized over batch and joints, as mmpose's MSRAHeatmap codec does it."""

from __future__ import annotations

import numpy as np

SIGMA = 1.5  # of the Gaussian around a keypoint, in pixels of the heatmap


def decode(heatmaps: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, K, 2) as x, y in input pixels and scores (N, K) from heatmaps (N, K, h, w) float32.

    The largest value, moved a quarter of a heatmap pixel towards its larger neighbour. `size` is the input's
    (height, width). A heatmap without a positive value has its keypoint at (-1, -1) heatmap pixels.
    """
    joints, scores = maxima(heatmaps)
    located = joints + quarter_offset(heatmaps, joints)
    height, width = heatmaps.shape[2:]
    return located * np.array([size[1] / width, size[0] / height]), scores


def encode(keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int], stride: int = 4) -> np.ndarray:
    """Heatmaps (N, K, H/stride, W/stride) float32 that `decode` reads as these keypoints, to a quarter of their pixels.

    A Gaussian around each keypoint whose largest pixel is the score: 0 everywhere where the keypoint lies outside.
    """
    height, width = size[0] // stride, size[1] // stride
    places = keypoints[..., None] / stride
    squares_x, squares_y = ((np.arange(n) - places[..., i, :]) ** 2 for i, n in enumerate((width, height)))
    heatmaps = np.exp(-(squares_y[..., :, None] + squares_x[..., None, :]) / (2 * SIGMA**2))
    inside = ((keypoints >= 0) & (np.rint(keypoints / stride) < [width, height])).all(axis=-1)
    peaks = np.maximum(heatmaps.max(axis=(2, 3)), 1e-12)
    return (heatmaps * (inside * scores / peaks)[..., None, None]).astype(np.float32)


def maxima(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer places (N, K, 2) x, y of the largest values and these values (N, K)."""
    count, joints, _, width = heatmaps.shape
    flat = heatmaps.reshape(count, joints, -1)
    index = flat.argmax(axis=2)
    scores = np.take_along_axis(flat, index[..., None], axis=2)[..., 0]
    places = np.stack([index % width, index // width], axis=-1)
    places[scores <= 0] = -1
    return places, scores


def quarter_offset(heatmaps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Offsets (N, K, 2) of -0.25, 0 or 0.25 towards the larger neighbour; none at the border, by mmpose's bounds."""
    count, joints, height, width = heatmaps.shape
    x, y = places[..., 0], places[..., 1]
    rows, columns = np.arange(count)[:, None], np.arange(joints)[None]

    def at(dx: int, dy: int) -> np.ndarray:
        return heatmaps[rows, columns, np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]

    inside_x = (x > 1) & (x < width - 1) & (y > 0)
    inside_y = (y > 1) & (y < height - 1) & (x > 0)
    slope_x = np.where(inside_x, at(1, 0) - at(-1, 0), 0)
    slope_y = np.where(inside_y, at(0, 1) - at(0, -1), 0)
    return 0.25 * np.sign(np.stack([slope_x, slope_y], axis=-1))


def flip_back(heatmaps: np.ndarray, pairs: np.ndarray, shift: bool = False) -> np.ndarray:
    """Heatmaps (N, K, h, w) of a mirrored image, mirrored back: joint k becomes joint `pairs[k]`.

    `shift` moves them by one pixel to the right, which makes up for the half-pixel bias of the plain warp.
    """
    flipped = heatmaps[:, pairs, :, ::-1].copy()
    if shift:
        flipped[..., 1:] = flipped[..., :-1].copy()
    return flipped
