"""Standard output and error, whatever they are connected to: a pipe that nobody reads, a terminal that is not UTF-8."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


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
