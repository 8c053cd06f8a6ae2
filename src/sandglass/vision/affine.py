"""From the box of a person, or a whole image, to the network's input and back, as in mmpose's pipelines."""

from __future__ import annotations

import math

import cv2
import numpy as np

Box = tuple[float, float, float, float]
Size = tuple[int, int]


def centre_and_scale(box: Box, size: tuple[int, int], padding: float = 1.25) -> tuple[np.ndarray, np.ndarray]:
    """The center (x, y) and the scale (width, height), in pixels of the image, of the region that becomes the input.

    `box` is (x, y, width, height) in pixels, and `size` the (height, width) of the input. The padded box grows in one
    direction to the aspect ratio of the input, as in mmpose's GetBBoxCenterScale and TopdownAffine.
    """
    x, y, width, height = box
    padded_width, padded_height = width * padding, height * padding
    aspect = size[1] / size[0]
    if padded_width > padded_height * aspect:
        padded_height = padded_width / aspect
    else:
        padded_width = padded_height * aspect
    return np.array([x + width / 2, y + height / 2]), np.array([padded_width, padded_height])


def warp_matrix(centre: np.ndarray, scale: np.ndarray, size: tuple[int, int], unbiased: bool = False) -> np.ndarray:
    """The matrix from image pixels to input pixels, (2, 3) float64, for an input of `size` (height, width).

    By default the width of the region becomes `width` pixels. With `unbiased` (UDP, Huang et al., 2020) distances are
    those between centers of pixels: the width becomes `width - 1`, and each axis has its own factor.
    """
    height, width = size
    if unbiased:
        factor = np.array([width - 1, height - 1]) / scale
        offset = factor * (scale / 2 - centre)
    else:
        factor = np.full(2, width / scale[0])
        offset = np.array([width, height]) / 2 - factor * centre
    return np.array([[factor[0], 0.0, offset[0]], [0.0, factor[1], offset[1]]])


def crop(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The region of an image as an input of `size`, (height, width, 3) uint8: bilinear, and black outside the image."""
    return cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR)


def to_image(points: np.ndarray, centres: np.ndarray, scales: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """From input pixels to image pixels, the inverse of the warp without `unbiased`: (N, points, 2).

    `points` are (N, points, 2), `centres` and `scales` are (N, 2).
    """
    relative = points / np.array([size[1], size[0]])
    return relative * scales[:, None] + centres[:, None] - scales[:, None] / 2


def to_input(points: np.ndarray, centres: np.ndarray, scales: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """From image pixels to input pixels: the inverse of `to_image`."""
    relative = (points - centres[:, None] + scales[:, None] / 2) / scales[:, None]
    return relative * np.array([size[1], size[0]])


def expanded(image: tuple[float, float], size: Size, multiple: int) -> tuple[tuple[float, float], Size]:
    """The (height, width) of an image that is scaled to cover `size`, and the input shape that contains it.

    `image` and `size` are (height, width). The image keeps its aspect ratio. `size` and the shape are rounded up to
    multiples of `multiple`, as in mmpose's BottomupResize with the mode "expand".
    """
    needed = [math.ceil(side / multiple) * multiple for side in size]
    factor = max(target / side for target, side in zip(needed, image, strict=True))
    height, width = (side * factor for side in image)
    # Rounding errors must not increase a side that is already a multiple.
    padded = [math.ceil(round(side, 6) / multiple) * multiple for side in (height, width)]
    return (height, width), (padded[0], padded[1])


def letterbox(box: Box, shape: Size, size: Size, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """The center and scale (see `centre_and_scale`) that put a box into the middle of an input of `shape`.

    The box gets the size from `expanded`, or the largest that `shape` (height, width) allows. With the shape from
    `expanded`, or a larger one, the result is that of mmpose.
    """
    x, y, width, height = box
    (target, _), _ = expanded((height, width), size, multiple)
    factor = min(target / height, shape[0] / height, shape[1] / width)
    return np.array([x + width / 2, y + height / 2]), np.array([shape[1], shape[0]]) / factor
