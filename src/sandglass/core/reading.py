"""Open files from other people: only regular files, of a limited size, with a clear error.

A path may name a folder, or a pipe or device whose read never ends; it may contain a NUL character. All readers of
files in Sandglass open them here.
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

# The errors that parsers of the standard library and NumPy raise for bytes that are not in their format.
MALFORMED = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError, KeyError, IndexError,
    ValueError, TypeError, AttributeError, OverflowError, MemoryError, NotImplementedError, RecursionError, OSError,
)  # fmt: skip
MOST_BYTES = 32 << 20  # bytes of a file that is read at once: the default limit, for settings, plans and annotations
# Reading a pipe without a writer must return, and a terminal must not become the process's controlling terminal.
# Windows does not have these flags.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: Path, error: type[InputError], what: str = "") -> IO[bytes]:
    """Open a regular file for reading. `what` names the kind of file in errors.

    Raises `error` if the file does not exist, cannot be read, or is a folder, a pipe or a device.
    """
    name = f"{what} {path}".strip()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # checked first, because opening some devices has side effects
            raise error(f"cannot read {name}: it is {_kind(path)}", "give a regular file")
        return open(os.open(path, FLAGS), "rb")
    except OSError as cause:
        raise error(f"cannot read {name}: {cause.strerror}", "check the path") from cause
    except ValueError as cause:  # a NUL character or a lone surrogate, which a path cannot contain
        raise error(f"cannot read {name}: {cause}", "check the path") from cause


def read_bytes(path: Path, error: type[InputError], what: str = "", most: int = MOST_BYTES) -> bytes:
    """The content of a regular file. Raises `error` like `open_file`, and for a file of more than `most` bytes."""
    with open_file(path, error, what) as stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(most + 1) if size <= most else b""
        except OSError as cause:
            raise error(f"cannot read {path}: {cause.strerror}", "check the file") from cause
    if max(size, len(data)) > most:  # some files of the kernel report the size 0
        raise error(f"{path} has {max(size, len(data))} bytes, but the limit is {most}", "give a smaller file")
    return data


def read_text(
    path: Path, error: type[InputError], what: str = "", most: int = MOST_BYTES, encoding: str = "utf-8"
) -> str:
    """The text of a file in `encoding`, without a byte-order mark.

    Raises `error` like `read_bytes`, and for bytes that are not in this encoding.
    """
    try:
        return read_bytes(path, error, what, most).decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not text in UTF-8", "convert it to UTF-8, or give another file") from cause


def _kind(path: Path) -> str:
    mode = os.stat(path).st_mode
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
