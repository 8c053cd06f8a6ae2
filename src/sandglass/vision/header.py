"""The size of an image from the header of its file, without decoding: JPEG, PNG, BMP, WebP, TIFF, PNM and GIF."""

from __future__ import annotations

import re
import struct

# Start-of-frame markers of JPEG; the other markers in this range are tables.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that exchange height and width
PNM = re.compile(rb"P[1-6](?:\s|#[^\n]{0,200}\n){1,50}(\d{1,9})(?:\s|#[^\n]{0,200}\n){1,50}(\d{1,9})\s")
# Tags of TIFF: width and height, bits of a sample, samples of a pixel, width and height of a tile.
TIFF_SIZES, TIFF_BITS, TIFF_SAMPLES, TIFF_TILES = (256, 257), 258, 277, (322, 323)
MOST_HEADER = 2 << 20  # bytes before the pixels of a JPEG, at most: a color profile may have 1 MB
# Bytes for each pixel while OpenCV decodes to three channels, by the first bytes of the file. Other formats need at
# most 9, for the coefficients of a progressive JPEG. WebP and GIF need additional copies with an alpha channel.
BYTES_EACH = {b"RI": 12, b"GI": 16}


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Height and width as stored, from a whole file or its beginning; None for another format or a damaged header."""
    try:
        return _size(data)
    except (struct.error, IndexError):
        return None


def _size(data: bytes) -> tuple[int, int] | None:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        width, height = struct.unpack_from(">II", data, 16)
    elif data[:2] == b"BM":
        old = struct.unpack_from("<I", data, 14)[0] == 12  # the header of OS/2, with 16 bits
        width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
        height = abs(height)  # it is negative if rows are stored from top to bottom
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    elif data[:2] == b"\xff\xd8":
        return _jpeg(data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        tags = _tiff(data)
        width, height = (max(tags.get(tag, (0,))) for tag in TIFF_SIZES)
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack_from("<HH", data, 6)
    elif fields := PNM.match(data):
        width, height = map(int, fields.groups())
    else:
        return None
    return height, width


def decoding_bytes(data: bytes) -> int:
    """The approximate memory for decoding, in bytes: the pixels times the bytes for one; 0 if the size is unknown."""
    size = stored_size(data)
    if size is None:
        return 0
    pixels = size[0] * size[1]
    if data[:2] in (b"II", b"MM"):
        return _tiff_bytes(data, pixels)
    return pixels * BYTES_EACH.get(data[:2], 9)


def _tiff_bytes(data: bytes, pixels: int) -> int:
    """The approximate memory for a TIFF: it is decoded by strips or tiles, which may be larger than the image."""
    try:
        tags = _tiff(data)
    except (struct.error, IndexError):
        return 0
    each = max(tags.get(TIFF_BITS, (1,))) * max(tags.get(TIFF_SAMPLES, (1,))) / 8
    width, height = (max(tags.get(tag, (0,))) for tag in TIFF_TILES)
    return int((each + 4) * max(pixels, width * height)) + 6 * pixels


def _tiff(data: bytes) -> dict[int, tuple[int, ...]]:
    """The numbers in the first directory by tag; of several values at another place only the first is read."""
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
        if kind in (3, 4):
            size, letter = (2, "H") if kind == 3 else (4, "I")
            place = entry + 8 if size * values <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)[0]
            tags[tag] = (*tags.get(tag, ()), struct.unpack_from(f"{order}{letter}", data, place)[0])
    return tags


def upright_size(data: bytes) -> tuple[int, int] | None:
    """`stored_size` after the EXIF orientation: a quarter turn of a JPEG exchanges height and width."""
    size = stored_size(data)
    try:
        turned = size is not None and data[:2] == b"\xff\xd8" and _orientation(data) in QUARTER_TURNS
    except (struct.error, IndexError):
        turned = False
    return size[::-1] if size and turned else size


def _jpeg(data: bytes) -> tuple[int, int] | None:
    for marker, start in _segments(data):
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 3)
            return height, width
    return None


def _segments(data: bytes) -> list[tuple[int, int]]:
    """The markers of a JPEG's segments before its pixels, and the positions of their lengths."""
    data = data[:MOST_HEADER]
    segments, place = [], 2
    while 0 <= (place := data.find(b"\xff", place)) <= len(data) - 4 and data[place + 1] != 0xDA:
        if data[place + 1] in (0, 0xFF):  # a fill byte, or a byte that decoders skip between segments
            place += 1
            continue
        segments.append((data[place + 1], place + 2))
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return segments


def _orientation(data: bytes) -> int:
    for marker, start in _segments(data):
        if marker == 0xE1 and data[start + 2 : start + 8] == b"Exif\0\0":
            tiff = start + 8
            order = ">" if data[tiff : tiff + 2] == b"MM" else "<"
            first = tiff + struct.unpack_from(f"{order}I", data, tiff + 4)[0]
            (count,) = struct.unpack_from(f"{order}H", data, first)
            for entry in range(first + 2, first + 2 + 12 * count, 12):
                tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
                if tag == ORIENTATION:
                    return int(value)
    return 1


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        low, high, lower, higher = struct.unpack_from("<HBHB", data, 24)  # two numbers with 24 bits each
        width, height = (low | high << 16) + 1, (lower | higher << 16) + 1
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width
