"""Output of a command: the result goes to standard output, everything else to standard error.

A terminal gets tables that fit its width. A pipe or a file gets Markdown and plain lines, equal on every machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from sandglass.cli.options import Output
from sandglass.cli.system import discard_output, one_line
from sandglass.core.progress import duration_text
from sandglass.table.markdown import Row, markdown

STDOUT = Path("-")  # the FILE of --json that means standard output
INTERVAL = 10.0  # seconds between two lines of progress, so that a log of an hour has a few hundred lines

Part = str | Sequence[Row]  # a paragraph, or a table


def show(output: Output, *parts: Part) -> None:
    """Print paragraphs and tables with empty lines between them, unless standard output is reserved for JSON."""
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
    """Write a result as JSON to the file or stream of `--json`, if it was given."""
    from sandglass.core.files import write_json

    if output.json == STDOUT:
        print(json.dumps(value, indent=2))
    elif output.json is not None:
        write_json(output.json, value)


def say(line: str) -> None:
    """Print a line of progress on standard error, above the progress bar if one is shown."""
    if is_terminal(sys.stderr):
        from sandglass.cli.terminal import print_line

        print_line(line)
    else:
        print(line, file=sys.stderr, flush=True)


class Progress:
    """Shows the progress of one step: the amount that is done, and the time left.

    Call it with the number of finished parts and the number of all parts. Both are divided by `parts` and shown with
    `unit`. A terminal gets a bar, other streams get a line every INTERVAL seconds.
    """

    def __init__(
        self, label: str, unit: str = "", parts: float = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.unit, self.parts, self._clock = label, unit, parts, clock
        self._begin: tuple[float, int] | None = None
        self._last = clock()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` parts are finished."""
        amount = f"{done / self.parts:.0f} of {total / self.parts:.0f} {self.unit}".rstrip()
        if is_terminal(sys.stderr):
            from sandglass.cli.terminal import show_bar

            show_bar(self.label, done, total, amount)
        else:
            self._line(done, total, amount)

    def _line(self, done: int, total: int, amount: str) -> None:
        now = self._clock()
        self._begin = self._begin or (now, done)
        if now - self._last < INTERVAL:
            return
        self._last = now
        begin, before = self._begin  # parts that an earlier run finished took no time in this run
        left = (now - begin) * (total - done) / (done - before) if done > before else 0.0
        say(f"{self.label}: {amount}" + (f" ({duration_text(left)} left)" if left else ""))


def close_progress() -> None:
    """End the progress bar if one is shown."""
    if terminal := sys.modules.get("sandglass.cli.terminal"):
        terminal.close_bar()


def fail(message: str, fix: str = "", code: int = 2) -> int:
    """Print an error and its fix: a panel on a terminal, two lines elsewhere. Returns the exit code."""
    with suppress(BrokenPipeError):  # the reader is gone
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
    """Whether the stream is a terminal; it is None if the caller closed it."""
    return stream is not None and stream.isatty()
