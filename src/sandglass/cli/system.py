"""What the command line runs in: streams that nobody reads or that are not UTF-8, arguments, a system that refuses."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from sandglass.core.errors import InputError

FIXES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "make room, or choose another place",
    (errno.EACCES, errno.EPERM, errno.EROFS): "check the permissions, or choose another place",
    (errno.EMFILE, errno.ENFILE): "allow more open files, as with `ulimit -n 1024`",
}


def fix_of(error: OSError) -> str:
    """What to do about an error of the system."""
    if isinstance(error, FileNotFoundError) and error.filename is None:  # by tempfile, which tries several places
        return "set TMPDIR to a folder that can be written"
    return next((fix for numbers, fix in FIXES.items() if error.errno in numbers), "check the path")


def refuse_other_encodings(arguments: Sequence[str]) -> None:
    """Raise InputError for an argument that is not UTF-8 text: no runtime opens a file of such a name."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the argument {argument!r} is not UTF-8 text", "rename the file or the folder") from error


def escape_unprintable() -> None:
    """Print what a stream's encoding lacks as an escape sequence, such as `\\xd7`, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what was printed; raises OSError where it cannot be written, BrokenPipeError where nobody reads it."""
    if sys.stdout is not None:  # closed by the caller, as `>&-` does
        sys.stdout.flush()


def discard_output() -> None:
    """Drop what could not be written, which Python would try again, with a stack trace, when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def one_line(text: str) -> str:
    """The text with line breaks and control characters escaped: a file's name may hold them, or a server's answer."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
