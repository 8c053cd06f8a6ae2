"""Images that cannot be read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from sandglass.errors import DatasetError
from sandglass.vision.image import normalize, read_image


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_size_beyond_the_readers_is_refused(tmp_path: Path) -> None:
    """A PNG whose header states 60000 by 60000 pixels is refused by name, without the memory for it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a.png is 60000x60000, 3600 million pixels; the limit is 108 million"):
        read_image(tmp_path / "a.png")


def test_missing_image_and_folder_are_named(tmp_path: Path) -> None:
    """A path without a file, or with a folder, is told with the system's reason."""
    with pytest.raises(DatasetError, match=r"cannot read image .*a.png: No such file"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="cannot read image"):
        read_image(tmp_path)


def test_normalize_is_the_arithmetic_in_float32() -> None:
    """Bit for bit (value - mean) / std in float32, for every value in every channel."""
    pixels = np.stack([np.arange(256).reshape(8, 32)] * 3, axis=2).astype(np.uint8)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    expected = (pixels.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)
    found = normalize(pixels, mean, std)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))
