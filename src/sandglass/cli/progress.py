"""How much of a step is done, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from sandglass.cli.output import is_terminal, say
from sandglass.core.progress import duration_text

INTERVAL = 10.0  # seconds between two lines, so that a log of an hour has a few hundred


class Progress:
    """The progress of one step, called with the number of parts that are done and the number of all."""

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self._clock = label, clock
        self._begin: tuple[float, int] | None = None
        self._last = clock()

    def __call__(self, done: int, total: int) -> None:
        """Show it."""
        if is_terminal(sys.stderr):
            from sandglass.cli.terminal import show_bar

            show_bar(self.label, done, total)
        else:
            self._line(done, total)

    def _line(self, done: int, total: int) -> None:
        now = self._clock()
        self._begin = self._begin or (now, done)
        if now - self._last < INTERVAL:
            return
        self._last = now
        begin, before = self._begin  # what an earlier run did took no time in this one
        left = (now - begin) * (total - done) / (done - before) if done > before else 0.0
        say(f"{self.label}: {done} of {total}" + (f" ({duration_text(left)} left)" if left else ""))


def close_progress() -> None:
    """Take a bar away that is still shown."""
    if terminal := sys.modules.get("sandglass.cli.terminal"):
        terminal.close_bar()
