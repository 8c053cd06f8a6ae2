"""From heatmaps to keypoints, vectorized over batch and joints, as in mmpose's MSRAHeatmap and UDPHeatmap codecs."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

METHODS = ("quarter", "dark", "udp")
SIGMA = 1.5  # standard deviation of the Gaussian around a keypoint, in pixels of the heatmap
BLURS = (11, 17)  # sides of the Gaussian kernel that blurs heatmaps, for heatmaps with a sigma of 2 and of 3


def decode(
    heatmaps: np.ndarray, size: tuple[int, int], method: str = "quarter", blur: int = BLURS[0]
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, K, 2) as x, y in input pixels, and scores (N, K), from heatmaps (N, K, h, w) float32.

    N is the batch and K the number of keypoints. `size` is the (height, width) of the input. The position of the
    largest value is moved by fractions of a heatmap pixel:

    quarter  by a quarter towards the larger neighbour
    dark     to the top of a parabola through the logarithms of the heatmap after a Gaussian blur of `blur` x `blur`
             pixels (Zhang et al., 2020)
    udp      the same, with a curvature from direct neighbours, and distances between centers of pixels (Huang et al.,
             2020)

    A heatmap without a positive value has its keypoint at (-1, -1) heatmap pixels, or near it.
    """
    joints, scores = maxima(heatmaps)
    if method == "quarter":
        positions = joints + quarter_offset(heatmaps, joints)
    elif method == "dark":
        positions = joints + dark_offset(heatmaps, joints, blur)
    else:
        positions = joints + udp_offset(heatmaps, joints, blur)
    return positions * _pixels(size, heatmaps.shape[2:], method), scores


def encode(
    keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int], stride: int = 4, method: str = "quarter"
) -> np.ndarray:
    """Heatmaps (N, K, H/stride, W/stride) float32 that `decode` turns into these keypoints, up to a quarter pixel.

    Each heatmap has a Gaussian around the keypoint, and its largest pixel is the score. It is 0 everywhere for a
    keypoint outside the input.
    """
    height, width = size[0] // stride, size[1] // stride
    places = keypoints / _pixels(size, (height, width), method)
    squares_x, squares_y = ((np.arange(n) - places[..., i, None]) ** 2 for i, n in enumerate((width, height)))
    heatmaps = np.exp(-(squares_y[..., :, None] + squares_x[..., None, :]) / (2 * SIGMA**2))
    inside = ((keypoints >= 0) & (np.rint(places) < [width, height])).all(axis=-1)
    peaks = np.maximum(heatmaps.max(axis=(2, 3)), 1e-12)
    return (heatmaps * (inside * scores / peaks)[..., None, None]).astype(np.float32)


def _pixels(size: tuple[int, int], grid: tuple[int, ...], method: str) -> np.ndarray:
    """The size of a heatmap pixel in input pixels, (2,) as x, y; UDP uses distances between centers of pixels."""
    between = 1 if method == "udp" else 0
    return np.array([size[1] / (grid[1] - between), size[0] / (grid[0] - between)])


def maxima(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the largest values, (N, K, 2) integers as x, y, and these values, (N, K)."""
    count, joints, _, width = heatmaps.shape
    flat = heatmaps.reshape(count, joints, -1)
    index = flat.argmax(axis=2)
    scores = np.take_along_axis(flat, index[..., None], axis=2)[..., 0]
    places = np.stack([index % width, index // width], axis=-1)
    places[scores <= 0] = -1
    return places, scores


def quarter_offset(heatmaps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Offsets (N, K, 2) of -0.25, 0 or 0.25 towards the larger neighbour; 0 near the border, as in mmpose."""
    height, width = heatmaps.shape[2:]
    x, y = places[..., 0], places[..., 1]
    at = _reader(heatmaps, places)
    inside_x = (x > 1) & (x < width - 1) & (y > 0)
    inside_y = (y > 1) & (y < height - 1) & (x > 0)
    slope_x = np.where(inside_x, at(1, 0) - at(-1, 0), 0)
    slope_y = np.where(inside_y, at(0, 1) - at(0, -1), 0)
    return 0.25 * np.sign(np.stack([slope_x, slope_y], axis=-1))


def dark_offset(heatmaps: np.ndarray, places: np.ndarray, blur: int) -> np.ndarray:
    """Offsets (N, K, 2) to the top of a parabola, from differences over two pixels; 0 within two of the border."""
    height, width = heatmaps.shape[2:]
    at = _reader(np.log(np.maximum(modulated(heatmaps, blur), 1e-10)), places)
    slope = 0.5 * np.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], axis=-1)
    xx = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0))
    yy = 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2))
    xy = 0.25 * (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1))
    inside = ((places > 1) & (places < [width - 2, height - 2])).all(axis=-1) & (xx * yy != xy**2)
    return np.where(inside[..., None], _to_top(slope, xx, yy, xy), 0.0)


def udp_offset(heatmaps: np.ndarray, places: np.ndarray, blur: int) -> np.ndarray:
    """Offsets (N, K, 2) to the top of a parabola, from differences over one pixel; the border is repeated outwards."""
    at = _reader(np.log(np.clip(modulated(heatmaps, blur), 1e-3, 50)), places)
    slope = 0.5 * np.stack([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)], axis=-1)
    xx = at(1, 0) - 2 * at(0, 0) + at(-1, 0) + np.finfo(np.float32).eps
    yy = at(0, 1) - 2 * at(0, 0) + at(0, -1) + np.finfo(np.float32).eps
    xy = 0.5 * (at(1, 1) - at(1, 0) - at(0, 1) + 2 * at(0, 0) - at(-1, 0) - at(0, -1) + at(-1, -1))
    return _to_top(slope, xx, yy, xy)


def modulated(heatmaps: np.ndarray, blur: int) -> np.ndarray:
    """Heatmaps (N, K, h, w) after a Gaussian blur of `blur` x `blur` pixels, scaled to their former maximum."""
    count, joints, height, width = heatmaps.shape
    border = blur // 2
    padded = np.zeros((count, joints, height + 2 * border, width + 2 * border), np.float32)
    inner = padded[..., border : border + height, border : border + width]
    inner[:] = heatmaps
    tall = padded.reshape(-1, width + 2 * border)  # all heatmaps in one image, separated by their borders of zeros
    cv2.GaussianBlur(tall, (blur, blur), 0, dst=tall)
    before, after = (maps.max(axis=(2, 3), keepdims=True) for maps in (heatmaps, inner))
    return inner * (before / np.where(after == 0, 1, after))


def _reader(maps: np.ndarray, places: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """A function that reads maps (N, K, h, w) at an offset from `places`, (N, K) float64; it repeats the border."""
    count, joints, height, width = maps.shape
    rows, columns = np.arange(count)[:, None], np.arange(joints)[None]
    x, y = places[..., 0], places[..., 1]

    def at(dx: int, dy: int) -> np.ndarray:
        values = maps[rows, columns, np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
        return values.astype(np.float64)

    return at


def _to_top(slope: np.ndarray, xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """The offset to the top of a parabola with this slope, (..., 2), and these second derivatives: -H^-1 slope."""
    determinant = xx * yy - xy**2
    safe = np.where(determinant == 0, 1, determinant)
    x, y = slope[..., 0], slope[..., 1]
    return -np.stack([(yy * x - xy * y) / safe, (xx * y - xy * x) / safe], axis=-1)


def flip_back(heatmaps: np.ndarray, pairs: np.ndarray, shift: bool = False) -> np.ndarray:
    """Heatmaps (N, K, h, w) of a mirrored image, mirrored back: joint k becomes joint `pairs[k]`.

    With `shift` they move by one pixel to the right, which compensates the bias of the warp without `unbiased`.
    """
    flipped = heatmaps[:, pairs, :, ::-1].copy()
    if shift:
        flipped[..., 1:] = flipped[..., :-1].copy()
    return flipped
