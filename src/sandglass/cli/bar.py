"""A progress bar on a terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from sandglass.cli.system import one_line
from sandglass.core.progress import duration_text

REFRESH = 0.1  # seconds between two refreshes


class _TimeLeft(ProgressColumn):
    """A rough estimate of the time left; empty at the end, and at the start until the pace is known."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text(f"{duration_text(left)} left" if left else "")


class Bar:
    """A bar with a label, the finished amount, and the time left."""

    def __init__(self, label: str, console: Console) -> None:
        self.label, self.last = label, float("-inf")
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), TextColumn("{task.fields[amount]}", markup=False), _TimeLeft())
        self.display = Progress(*columns, console=console, auto_refresh=False, redirect_stdout=False,
                                redirect_stderr=False)  # fmt: skip
        self.task = self.display.add_task(one_line(label), total=None, amount="")
        self.display.start()

    def update(self, done: int, total: int, amount: str) -> None:
        """Show that `done` of `total` is finished, with the text `amount`. Redraws at most once in REFRESH seconds."""
        due = time.monotonic() - self.last >= REFRESH
        if due:
            self.last = time.monotonic()
        self.display.update(self.task, completed=done, total=total, amount=amount, refresh=due)

    def is_full(self) -> bool:
        """Whether all parts are finished."""
        return self.display.finished

    def close(self) -> None:
        """End the bar, which stays on the screen with its last state, and show the cursor again."""
        self.display.stop()
