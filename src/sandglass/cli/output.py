"""What a command prints: its result on standard output, everything else on standard error.

A terminal gets tables that fit it; a pipe or a file gets Markdown and plain lines, the same on every machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from sandglass.cli.options import Output
from sandglass.cli.system import discard_output, one_line
from sandglass.table.markdown import Row, markdown

STDOUT = Path("-")  # as the FILE of --json

Part = str | Sequence[Row]  # a paragraph, or a table


def show(output: Output, *parts: Part) -> None:
    """Print paragraphs and tables with an empty line between them, unless standard output is for JSON alone."""
    if output.json == STDOUT:
        return
    if is_terminal(sys.stdout):
        from sandglass.cli.terminal import print_parts

        print_parts(parts)
    else:
        print(as_markdown(parts))


def as_markdown(parts: Sequence[Part]) -> str:
    """Paragraphs and tables as one Markdown text."""
    return "\n\n".join(part if isinstance(part, str) else markdown(part) for part in parts)


def write_result(output: Output, value: object) -> None:
    """Write a result as JSON to where `--json` says, if it was given."""
    from sandglass.core.files import write_json

    if output.json == STDOUT:
        print(json.dumps(value, indent=2))
    elif output.json is not None:
        write_json(output.json, value)


def say(line: str) -> None:
    """Print a line of progress on standard error, above a progress bar that is shown there."""
    if is_terminal(sys.stderr):
        from sandglass.cli.terminal import print_line

        print_line(line)
    else:
        print(line, file=sys.stderr, flush=True)


def fail(message: str, fix: str = "", code: int = 2) -> int:
    """Say what went wrong and what to do: a panel on a terminal, two lines elsewhere. Returns the exit code."""
    with suppress(BrokenPipeError):  # nobody reads it
        if is_terminal(sys.stderr):
            from sandglass.cli.terminal import print_error

            print_error(one_line(message), one_line(fix))
        else:
            say(f"sandglass: {one_line(message)}")
            if fix:
                say(f"  {one_line(fix)}")
    discard_output()
    return code


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads the stream; the caller may have closed it."""
    return stream is not None and stream.isatty()
