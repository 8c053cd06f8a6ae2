"""Image sizes by header: equal to what OpenCV decodes, and refused where that would take too much memory."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sandglass.core.errors import DatasetError
from sandglass.vision import header
from sandglass.vision.image import MOST_DECODED, image_size, read_image


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".ppm"])
@pytest.mark.parametrize("size", [(37, 52), (300, 201)])
def test_size_is_that_of_the_decoded_image(suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Written by OpenCV, read by the header alone: the first kilobyte is enough."""
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    assert header.stored_size(path.read_bytes()[:1024]) == size
    assert image_size(path) == size == read_image(path).shape[:2]


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"exif": Image.Exif()}, {"quality": 50}], ids=["VP8L", "VP8X", "VP8"]
)
def test_every_kind_of_webp(options: dict[str, object], tmp_path: Path) -> None:
    """The three kinds of first chunks."""
    path = tmp_path / "a.webp"
    if "exif" in options:
        options = {"exif": _exif(1).tobytes()}
    Image.new("RGB", (70, 41)).save(path, **options)
    assert image_size(path) == (41, 70)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_has_its_upright_size(orientation: int, tmp_path: Path) -> None:
    """EXIF's orientations are followed as OpenCV does."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (70, 41)).save(path, exif=_exif(orientation).tobytes())
    assert image_size(path) == read_image(path).shape[:2]
    assert header.stored_size(path.read_bytes()) == (41, 70)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[header.ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_header_that_is_cut_has_no_size(suffix: str, tmp_path: Path) -> None:
    """Nothing is raised for broken bytes, whatever their number."""
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (70, 41)).save(path, exif=_exif(6).tobytes())
    data = path.read_bytes()
    for end in range(min(len(data), 400)):
        assert header.upright_size(data[:end]) in (None, (41, 70), (70, 41))
    assert header.stored_size(b"8BPS and more") is None


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_formats_of_several_images(suffix: str, tmp_path: Path) -> None:
    """The size is that of the first one."""
    Image.new("RGB", (70, 41)).save(tmp_path / f"a.{suffix}")
    assert header.stored_size((tmp_path / f"a.{suffix}").read_bytes()) == (41, 70)
    assert image_size(tmp_path / f"a.{suffix}") == read_image(tmp_path / f"a.{suffix}").shape[:2] == (41, 70)


def test_an_image_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A file of 60 bytes that states 400 million pixels: one line with its name, its size and the limit."""
    path = tmp_path / "vast.png"
    content = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + content
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    assert MOST_DECODED < 9 * 20000 * 20000
    with pytest.raises(DatasetError, match=r"vast.png is 20000x20000, 400 million pixels; the limit is 108 million"):
        read_image(path)
