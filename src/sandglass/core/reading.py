"""Opening files that other people made: regular files only, of a limited size, with one clear error.

A path may lead to a pipe or a device, where a read never ends; it may hold a NUL, or name a folder. Every reader of a
file in Sandglass opens it here.
"""

from __future__ import annotations

import os
import stat
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

from sandglass.core.errors import InputError

# What bytes that are not of their format make the parsers of the standard library and NumPy raise.
MALFORMED = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError, KeyError, IndexError,
    ValueError, TypeError, AttributeError, OverflowError, MemoryError, NotImplementedError, RecursionError, OSError,
)  # fmt: skip
MOST_BYTES = 32 << 20  # of a file that is read whole where its reader states no other limit: settings, plans, truths
# Reading a pipe without a writer must return; a terminal must not become the process's own. Windows has neither.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: Path, error: type[InputError], what: str = "") -> IO[bytes]:
    """Open a regular file for reading; `what` says in errors what it is.

    Raises `error` where there is no such file, it cannot be read, or it is a folder, a pipe or a device.
    """
    name = f"{what} {path}".strip()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening some devices has an effect: look first
            raise error(f"cannot read {name}: it is {_kind(path)}", "give a regular file")
        return open(os.open(path, FLAGS), "rb")
    except OSError as cause:
        raise error(f"cannot read {name}: {cause.strerror}", "check the path") from cause
    except ValueError as cause:  # a NUL or half a surrogate pair, which no path can hold
        raise error(f"cannot read {name}: {cause}", "check the path") from cause


def read_bytes(path: Path, error: type[InputError], what: str = "", most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes; raises `error` as `open_file`, and for a larger one."""
    with open_file(path, error, what) as stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(most + 1) if size <= most else b""
        except OSError as cause:
            raise error(f"cannot read {path}: {cause.strerror}", "check the file") from cause
    if max(size, len(data)) > most:  # some files that a kernel makes have no size
        raise error(f"{path} has {max(size, len(data))} bytes, the limit is {most}", "give a smaller file")
    return data


def read_text(
    path: Path, error: type[InputError], what: str = "", most: int = MOST_BYTES, encoding: str = "utf-8"
) -> str:
    """The text of a file in UTF-8, without a byte-order mark. Raises `error` as `read_bytes`, and for other bytes."""
    try:
        return read_bytes(path, error, what, most).decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not text in UTF-8", "convert it, or give another file") from cause


def _kind(path: Path) -> str:
    mode = os.stat(path).st_mode
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
