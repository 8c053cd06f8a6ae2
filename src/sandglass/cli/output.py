"""What a command prints: its result on standard output, everything else on standard error.

A terminal gets tables that fit it; a pipe or a file gets Markdown and plain lines, the same on every machine.
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

STDOUT = Path("-")  # as the FILE of --json
INTERVAL = 10.0  # seconds between two lines, so that a log of an hour has a few hundred

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


class Progress:
    """The progress of one step, called with the number of parts that are done and the number of all.

    Shown are the numbers of parts over `parts`, in a `unit`. A terminal gets a bar, anything else a line now and then.
    """

    def __init__(
        self, label: str, unit: str = "", parts: float = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.unit, self.parts, self._clock = label, unit, parts, clock
        self._begin: tuple[float, int] | None = None
        self._last = clock()

    def __call__(self, done: int, total: int) -> None:
        """Show it."""
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
        begin, before = self._begin  # what an earlier run did took no time in this one
        left = (now - begin) * (total - done) / (done - before) if done > before else 0.0
        say(f"{self.label}: {amount}" + (f" ({duration_text(left)} left)" if left else ""))


def close_progress() -> None:
    """Take a bar away that is still shown."""
    if terminal := sys.modules.get("sandglass.cli.terminal"):
        terminal.close_bar()


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
