"""Resizing as in the two libraries with which networks are trained.

They differ by whole grey levels: Pillow averages over the area of a new pixel, OpenCV samples around its center.
"""

from __future__ import annotations

import cv2
import numpy as np

from sandglass.core.errors import CardError

OPENCV = {
    "bilinear": cv2.INTER_LINEAR,
    "nearest": cv2.INTER_NEAREST,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
PILLOW = ("nearest", "bilinear", "bicubic", "lanczos")
LIBRARIES = {"opencv": tuple(OPENCV), "pillow": PILLOW}
Size = tuple[int, int]


def resize(image: np.ndarray, size: Size, library: str, interpolation: str) -> np.ndarray:
    """An image, (height, width, 3) uint8, resized to `size` (height, width) by "opencv" or "pillow".

    Raises CardError for an unknown library or interpolation.
    """
    interpolations = LIBRARIES.get(library)
    if interpolations is None:
        raise CardError(f"library is {library!r}, expected {' or '.join(LIBRARIES)}", "see docs/classification.md")
    if interpolation not in interpolations:
        raise CardError(
            f"interpolation is {interpolation!r}, but {library} has {', '.join(interpolations)}",
            "see docs/classification.md",
        )
    if image.shape[:2] == size:
        return image
    if library == "opencv":
        return np.asarray(cv2.resize(image, size[::-1], interpolation=OPENCV[interpolation]))
    from PIL import Image

    method = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], method))


def by_short_side(size: Size, length: int) -> Size:
    """The size whose short side is `length`; the long side is truncated to whole pixels, as in mmpretrain."""
    height, width = size
    if width < height:
        return int(length * height / width), length
    return length, int(length * width / height)


def centre_crop(image: np.ndarray, size: Size) -> np.ndarray:
    """The center of an image that is at least as large as `size`; half pixels round to the even side, as in mmcv."""
    (height, width), (rows, columns) = image.shape[:2], size
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return image[top : top + rows, left : left + columns]
