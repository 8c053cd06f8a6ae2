"""Images that cannot be read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.vision.image import image_size, normalize, read_image, write_image


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


def tiff(width: int, height: int, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """A TIFF of one strip of zeros with its directory."""
    strip = bytes(min(3 * width * height, 300))
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 2, 273: 8, 277: 3, 278: height, 279: len(strip)}
    entries |= dict(tags)
    data = b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(entries))
    return data + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())) + bytes(4)


def bmp_of_os2(width: int, height: int) -> bytes:
    """A BMP with the older header of 12 bytes."""
    return b"BM" + struct.pack("<IHHI", 26, 0, 0, 26) + struct.pack("<IHHHH", 12, width, height, 1, 24) + bytes(64)


def lying_jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    """A JPEG whose frame states another size, with bytes between its segments."""
    data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    frame = data.index(b"\xff\xc0")
    changed = data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]
    return changed[:frame] + before + changed[frame:]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.ppm", b"P6 32000 32000 255\n" + b"x" * 100),
        ("a.pgm", b"P5\n# a comment\n32000\n32000\n65535\n" + b"x" * 100),
        ("a.tif", tiff(32000, 32000)),
        ("tiles.tif", tiff(100, 100, ((322, 1 << 20), (323, 1 << 15)))),
        ("a.gif", b"GIF89a" + struct.pack("<HH", 32000, 32000) + b"\x80\0\0" + b"\0" * 20),
        ("a.jpg", lying_jpeg(30000, 30000)),
        ("junk.jpg", lying_jpeg(30000, 30000, b"\0\0\x07")),
        ("a.bmp", b"BM" + bytes(8) + struct.pack("<IIii", 54, 40, 30000, -30000) + bytes(40)),
        ("os2.bmp", bmp_of_os2(60000, 60000)),
        ("a.webp", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6 + bytes(8)),
    ],
)  # fmt: skip
def test_images_that_state_a_vast_size_are_not_decoded(name: str, data: bytes, tmp_path: Path) -> None:
    """Every format that is read, in both orders of bytes and with junk, by what decoding would take."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=r"million pixels; the limit is"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    "data", [b"P7\nWIDTH 2\nHEIGHT 2\n", b"#?RADIANCE\n", b"\x59\xa6\x6a\x95" + bytes(40), b"\0" * 40, b""]
)
def test_formats_that_are_not_read(data: bytes, tmp_path: Path) -> None:
    """Their decoders are not reached."""
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DatasetError, match="not a readable image"):
        read_image(tmp_path / "a.png")


def test_old_bitmaps_and_junk_between_segments_are_read(tmp_path: Path) -> None:
    """The size by the header is that of the pixels."""
    for name, data, size in (("a.bmp", bmp_of_os2(3, 2), (2, 3)), ("a.jpg", lying_jpeg(16, 16, b"\0\0"), (16, 16))):
        (tmp_path / name).write_bytes(data)
        assert image_size(tmp_path / name) == read_image(tmp_path / name).shape[:2] == size


@pytest.mark.parametrize("height", [1, 255, 256, 257, 600])
def test_channels_change_places_in_every_row(height: int, tmp_path: Path) -> None:
    """RGB as written, in images of few and of many rows."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, 5, 3), np.uint8)
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
