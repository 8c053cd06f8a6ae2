"""From a person's box, or a whole image, to the network's input and back, as mmpose's pipelines do it."""

from __future__ import annotations

import math

import cv2
import numpy as np

Box = tuple[float, float, float, float]
Size = tuple[int, int]


def centre_and_scale(box: Box, size: tuple[int, int], padding: float = 1.25) -> tuple[np.ndarray, np.ndarray]:
    """Centre (x, y) and scale (width, height) in image pixels of the region that becomes the input.

    `box` is x, y, width, height in pixels; `size` the input's (height, width). The padded box grows in one direction
    to the aspect ratio of the input. Matches mmpose's GetBBoxCenterScale and the aspect fix of TopdownAffine.
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
    """The (2, 3) float64 matrix that takes image pixels to input pixels, for an input of `size` (height, width).

    Plain: the region's width becomes `width` pixels. Unbiased (UDP, Huang et al., 2020): distances between pixel
    centres are kept, so it becomes `width - 1`, and each axis has its own factor.
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
    """Cut the region out of an HWC uint8 image, bilinear, black outside: (height, width, 3) uint8."""
    return cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR)


def to_image(points: np.ndarray, centres: np.ndarray, scales: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Input pixels back to image pixels: points (N, K, 2), centres and scales (N, 2), inverse of the plain warp."""
    relative = points / np.array([size[1], size[0]])
    return relative * scales[:, None] + centres[:, None] - scales[:, None] / 2


def to_input(points: np.ndarray, centres: np.ndarray, scales: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Image pixels to input pixels: the inverse of `to_image`."""
    relative = (points - centres[:, None] + scales[:, None] / 2) / scales[:, None]
    return relative * np.array([size[1], size[0]])


def expanded(image: tuple[float, float], size: Size, multiple: int) -> tuple[tuple[float, float], Size]:
    """Height and width of an image that covers `size` in its own aspect ratio, and the shape that holds it.

    `image` and `size` are (height, width). Both `size` and the shape are rounded up to multiples of `multiple`. Matches
    mmpose's BottomupResize in mode expand.
    """
    needed = [math.ceil(side / multiple) * multiple for side in size]
    factor = max(need / side for need, side in zip(needed, image, strict=True))
    height, width = (side * factor for side in image)
    # A side that is a multiple already must not be rounded up for its last bit.
    padded = [math.ceil(round(side, 6) / multiple) * multiple for side in (height, width)]
    return (height, width), (padded[0], padded[1])


def letterbox(box: Box, shape: Size, size: Size, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale (see `centre_and_scale`) that put a box in the middle of an input of `shape`.

    The box becomes as large as `expanded` says, or as `shape` (height, width) allows: with the shape that `expanded`
    gives, or any larger one, this is what mmpose does.
    """
    x, y, width, height = box
    (target, _), _ = expanded((height, width), size, multiple)
    factor = min(target / height, shape[0] / height, shape[1] / width)
    return np.array([x + width / 2, y + height / 2]), np.array([shape[1], shape[0]]) / factor
