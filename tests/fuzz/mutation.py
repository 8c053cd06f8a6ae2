"""Changed files: bytes, words, trees of JSON and entries of zip archives, drawn from a seed."""

from __future__ import annotations

import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

MOST_BYTES = 1 << 20  # of an input
MOST_REPEATS = 20_000
FEW = (1,) * 8 + (2,) * 6 + (3, 4, 8, 16)  # most changes are small: a large input takes as long as a hundred others
WORDS: tuple[bytes, ...] = (
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\x0c", b"\r", b"\n", b" ",
    b"0", b"-1", b"1e400", b"nan", b"Infinity", b"9" * 400, b"2147483648", b"-9223372036854775809", b"65536", b"1e-400",
    b"null", b"true", b"[]", b"{}", b'"', b"'", b"[", b"{", b"(", b"..", b"/", b"../../x", b"/dev/zero", b",", b"=",
    b"#",
    # pickle
    b"cos\nsystem\n", b"(", b")", b"t", b"\x85", b"\x86", b"\x87", b"R", b"b", b"o", b"Q", b"2", b"0", b"1", b"}", b"]",
    b"q\x01", b"h\x01", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"\x8a\xff", b"\x81", b"\x93", b"\x94", b"u", b"s",
    b"J\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"e", b"a", b"\x89", b"\x8f",
    # Python
    b"**", b"<<", b"*", b"+", b"lambda:", b"import os\n", b"_base_ = 'a.py'\n", b"a = a + a\n", b"[*a, *a]", b"-", b"%",
    b"f'{a}{a}'", b"a = a * a\n", b"with read_base():\n    from .a import *\n", b"...", b"b''", b"1j", b"dict(a=a)",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "\0", "../../x", "/etc/passwd", "\ud800", "a" * 5000, [], {}, [[]], [None], {"": None}, [0] * 500, "1",
    [1, 2, 3, 4],
)  # fmt: skip

Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def _flip(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(draw.choice((1, 1, 2, 8, 32))):
        changed[draw.randrange(min(len(changed), draw.choice((64, 256, 1 << 20))))] = draw.randrange(256)
    return bytes(changed)


def _cut(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:end] if draw.random() < 0.5 else data[:start] + data[end:]


def _insert(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    place, word = draw.randrange(len(data) + 1), draw.choice(WORDS)
    times = draw.choice((*FEW, 100, MOST_REPEATS))
    return data[:place] + word * times + data[place + draw.choice((0, 0, len(word))) :]


def _repeat(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice((1, 2, 4, 16, 64, 256)))
    return data[:end] + data[start:end] * draw.choice((*FEW, 50, 1000, MOST_REPEATS)) + data[end:]


def _splice(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = draw.choice(seeds)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _lines(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    action = draw.randrange(3)
    if action == 0:
        lines[place:place] = [draw.choice(lines)] * draw.choice((1, 2, 1000))
    elif action == 1:
        del lines[place]
    else:
        words = lines[place].split(b" ")
        words[draw.randrange(len(words))] = draw.choice(WORDS)
        lines[place] = b" ".join(words)
    return b"\n".join(lines)


def _tree(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """One value in a JSON document replaced, removed, doubled or wrapped."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _flip(draw, data, seeds)
    for _ in range(draw.choice((1, 1, 2, 5))):
        value = _change_tree(draw, value)
    return json.dumps(value).encode()


def _change_tree(draw: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        action = draw.random()
        if action < 0.1:
            return {name: part for name, part in value.items() if name != key}
        if action < 0.15:
            return {**value, draw.choice(("", "x", "\0", "../x", "format")): draw.choice(VALUES)}
        return {**value, key: _change_tree(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.75:
        place = draw.randrange(len(value))
        if draw.random() < 0.2:
            return [*value[:place], *[value[place]] * draw.choice((0, 2, 300)), *value[place + 1 :]]
        return [*value[:place], _change_tree(draw, value[place]), *value[place + 1 :]]
    return _wrapped(draw, value) if draw.random() < 0.1 else draw.choice(VALUES)


def _wrapped(draw: random.Random, value: Any) -> Any:
    for _ in range(draw.choice((1, 30, 300))):
        value = [value]
    return value


def _entry(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """One entry of a zip archive changed, packed again whole, so that its reader is reached."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, RuntimeError, EOFError):
        return _flip(draw, data, seeds)
    if not entries:
        return data
    name = draw.choice(list(entries)[:1] * 3 + list(entries))
    entries[name] = draw.choice(BYTES)(draw, entries[name], [entries[name]])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for key, content in entries.items():
            archive.writestr(key, content)
    return stream.getvalue()


BYTES: tuple[Change, ...] = (_flip, _flip, _cut, _insert, _insert, _repeat, _splice)
KINDS: dict[str, tuple[Change, ...]] = {
    "bytes": BYTES,
    "text": (*BYTES, _lines, _lines, _lines),
    "json": (*BYTES, _lines, _tree, _tree, _tree, _tree, _tree, _tree),
    "zip": (*BYTES, _entry, _entry, _entry, _entry, _entry, _entry),
}


def mutated(kind: str, seeds: Sequence[bytes], key: str) -> bytes:
    """One input: a seed changed one to six times. The same `key` gives the same input."""
    draw = random.Random(key)
    data = draw.choice(seeds)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        data = draw.choice(KINDS[kind])(draw, data, seeds)[:MOST_BYTES]
    return data
