"""The command line's contact with the system: closed or non-UTF-8 streams, arguments, and errors of the system."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from sandglass.core.errors import InputError

FIXES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free disk space, or choose another folder",
    (errno.EACCES, errno.EPERM, errno.EROFS): "check the permissions, or choose another folder",
    (errno.EMFILE, errno.ENFILE): "allow more open files, for example with `ulimit -n 1024`",
}


def fix_of(error: OSError) -> str:
    """The fix for an error of the operating system."""
    if isinstance(error, FileNotFoundError) and error.filename is None:  # from tempfile, which tries several folders
        return "set TMPDIR to a writable folder"
    return next((fix for numbers, fix in FIXES.items() if error.errno in numbers), "check the path")


def refuse_other_encodings(arguments: Sequence[str]) -> None:
    """Raise InputError for an argument that is not UTF-8 text, because no runtime opens a file with such a name."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the argument {argument!r} is not UTF-8 text", "rename the file or the folder") from error


def escape_unprintable() -> None:
    """Print characters that a stream's encoding lacks as escape sequences, such as `\\xd7`, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Flush standard output. Raises OSError if it cannot be written, and BrokenPipeError if its reader is gone."""
    if sys.stdout is not None:  # it is None if the caller closed it, as `>&-` does
        sys.stdout.flush()


def discard_output() -> None:
    """Drop output that could not be written. Otherwise Python tries again when it ends, and prints a stack trace."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def one_line(text: str) -> str:
    """The text with line breaks and control characters escaped; a file name or a server's answer may contain them."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
