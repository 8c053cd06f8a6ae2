"""Images in files, as the COCO tools read them, and their pixels as a network wants them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from sandglass.errors import DatasetError, InputError
from sandglass.files import atomic_file
from sandglass.vision import header

MOST_PIXELS = 1 << 28  # decoding takes 6 bytes for each: 1.6 GB


def read_image(path: Path, upright: bool = True) -> np.ndarray:
    """Read an image file to HWC uint8 RGB.

    Grey images get three equal channels, 16 bits are scaled to 8, an alpha channel is dropped, and EXIF orientation is
    applied: what `cv2.imread` does by default, and mmcv after it. Not `upright`, pixels stay as they are stored, which
    is what the truths of text datasets refer to. Raises DatasetError when the file is missing, no
    readable image, or, by its header, larger than MOST_PIXELS: that one is not decoded.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    content = _content(path)
    data = np.frombuffer(content, np.uint8)
    size = header.stored_size(content)
    if size and size[0] * size[1] > MOST_PIXELS:
        raise DatasetError(
            f"{path} is {size[0]}x{size[1]}, {size[0] * size[1] / 1e6:.0f} million pixels; "
            f"the limit is {MOST_PIXELS / 1e6:.0f} million",
            "make it smaller or leave it out",
        )
    try:
        pixels = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:  # its header states a size over OpenCV's limit
        pixels = None
    if pixels is None:
        raise DatasetError(f"{path} is not a readable image", "replace the file or leave it out of the annotations")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as `read_image` reads it upright, by its header where it has a known one.

    Raises DatasetError as `read_image`.
    """
    return header.upright_size(_content(path)) or read_image(path).shape[:2]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read image {path}: {error.strerror}", "check the path") from error


def normalize(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(value - mean) / std of each channel: HWC uint8 to CHW float32, equal to the same arithmetic in float32."""
    tables = _tables(tuple(mean), tuple(std))
    array = np.empty((len(tables), *pixels.shape[:2]), np.float32)
    for channel, table, out in zip(cv2.split(pixels), tables, array, strict=True):
        cv2.LUT(channel, table, out)  # looking up 256 results is faster than computing each
    return array


@lru_cache
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(channels, 1, 256) float32."""
    offsets, factors = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return (np.arange(256, dtype=np.float32) - offsets) / factors


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write HWC uint8 RGB pixels as PNG or JPEG by the path's suffix, atomically.

    Raises InputError for another suffix, and ArtifactError where the folder cannot be written.
    """
    try:
        encoded, data = cv2.imencode(path.suffix or ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise InputError(f"cannot write {path}: {path.suffix!r} is no image format", "end the name in .png")
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.tobytes())
