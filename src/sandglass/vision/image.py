"""Reading images as the COCO tools do: three channels, eight bits, turned as the camera's EXIF tag says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sandglass.errors import DatasetError


def read_image(path: Path) -> np.ndarray:
    """Read an image file to HWC uint8 RGB.

    Grey images get three equal channels, 16 bits are scaled to 8, an alpha channel is dropped, and EXIF orientation is
    applied: what `cv2.imread` does by default, and mmcv after it. Raises DatasetError when the file is missing, no
    readable image, or larger than OpenCV reads (2**30 pixels).
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DatasetError(f"cannot read image {path}: {error.strerror}", "check the path") from error
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # its header states a size over OpenCV's limit
        pixels = None
    if pixels is None:
        raise DatasetError(f"{path} is not a readable image", "replace the file or leave it out of the annotations")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
