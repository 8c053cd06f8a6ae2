"""The size of an image by its file's header, without decoding it: JPEG, PNG, BMP and WebP."""

from __future__ import annotations

import struct

# Start-of-frame markers; the others in this range are tables.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values with which sides change places


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Height and width as stored, from a whole file or its beginning; None for another format or a broken header."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack_from(">II", data, 16)
        elif data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            height = abs(height)  # negative where rows go from the top down
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        elif data[:2] == b"\xff\xd8":
            return _jpeg(data)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return height, width


def upright_size(data: bytes) -> tuple[int, int] | None:
    """The same with the sides exchanged where a JPEG's EXIF data says that it is to be turned by a quarter."""
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
    """Markers of a JPEG's segments before its pixels, and where their lengths stand."""
    found, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        if data[place + 1] == 0xFF:  # a fill byte
            place += 1
            continue
        found.append((data[place + 1], place + 2))
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return found


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
        low, high, lower, higher = struct.unpack_from("<HBHB", data, 24)  # of 24 bits each
        width, height = (low | high << 16) + 1, (lower | higher << 16) + 1
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width
