"""Read and write image files, as the COCO tools do, and normalize pixels for networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from sandglass.core.errors import DatasetError, InputError
from sandglass.core.files import atomic_file
from sandglass.core.reading import read_bytes
from sandglass.vision import header

MOST_BYTES = 256 << 20  # size of a file, at most
MOST_DECODED = 972_000_000  # bytes for decoding, at most: 108 million pixels of a JPEG, the largest photo of a phone
ROWS = 256  # rows whose channels are reordered at once
FORMATS = "JPEG, PNG, BMP, WebP, TIFF, PNM or GIF"


def read_image(path: Path, upright: bool = True) -> np.ndarray:
    """Read an image file: (height, width, 3) uint8 RGB.

    A grey image gets three equal channels, 16 bits are scaled to 8, an alpha channel is dropped, and EXIF orientation
    is applied, as in `cv2.imread` and mmcv. Without `upright` the pixels stay as they are stored, since the labels of
    text datasets refer to them. Raises DatasetError if the file is missing, is not a readable image of FORMATS, or
    would need more than MOST_DECODED bytes by its header; such a file is not decoded.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    data = read_bytes(path, DatasetError, "image", MOST_BYTES)
    size, needed = header.stored_size(data), header.decoding_bytes(data)
    if size and needed > MOST_DECODED:
        pixels = size[0] * size[1]
        raise DatasetError(
            f"{path} is {size[0]}x{size[1]}, {pixels / 1e6:.0f} million pixels; "
            f"the limit is {pixels * MOST_DECODED // needed / 1e6:.0f} million for its format",
            "make the image smaller or leave it out",
        )
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if needed > 0 else None
    except cv2.error:  # its header has a size above OpenCV's limit
        decoded = None
    if decoded is None:
        raise DatasetError(f"{path} is not a readable image", f"replace it by one of {FORMATS}, or leave it out")
    return _to_rgb(decoded)


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Reorder BGR pixels to RGB in place, because a copy of a large image would double the memory."""
    for start in range(0, len(pixels), ROWS):
        rows = pixels[start : start + ROWS]
        rows[:] = cv2.cvtColor(rows, cv2.COLOR_BGR2RGB)
    return pixels


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` returns it upright, from its header if that is possible.

    Raises DatasetError as `read_image` does.
    """
    return header.upright_size(read_bytes(path, DatasetError, "image", MOST_BYTES)) or read_image(path).shape[:2]


def normalize(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(value - mean) / std of each channel: (height, width, channels) uint8 -> (channels, height, width) float32.

    The results are equal to the same arithmetic in float32.
    """
    tables = _tables(tuple(mean), tuple(std))
    array = np.empty((len(tables), *pixels.shape[:2]), np.float32)
    for channel, table, out in zip(cv2.split(pixels), tables, array, strict=True):
        cv2.LUT(channel, table, out)  # a table of 256 results is faster than the arithmetic for each pixel
    return array


@lru_cache
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """The result for each byte and channel, (channels, 1, 256) float32."""
    offsets, factors = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return (np.arange(256, dtype=np.float32) - offsets) / factors


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write pixels, (height, width, 3) uint8 RGB, as PNG or JPEG by the suffix of the path, atomically.

    Raises InputError for another suffix, and ArtifactError if the folder cannot be written.
    """
    try:
        encoded, data = cv2.imencode(path.suffix or ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise InputError(f"cannot write {path}: {path.suffix!r} is not an image format", "end the name in .png")
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.tobytes())
