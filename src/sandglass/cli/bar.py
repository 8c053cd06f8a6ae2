"""A progress bar that rewrites itself on a terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from sandglass.cli.system import one_line
from sandglass.core.progress import duration_text

REFRESH = 0.1  # seconds between two refreshes


class _TimeLeft(ProgressColumn):
    """A rough estimate; empty until there is a pace to estimate from, and at the end."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text(f"{duration_text(left)} left" if left else "")


class Bar:
    """A bar with a label, the number of parts that are done, and the time left."""

    def __init__(self, label: str, total: int, console: Console) -> None:
        self.label, self.last = label, float("-inf")
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _TimeLeft())
        self.display = Progress(
            *columns, console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self.task = self.display.add_task(one_line(label), total=total)
        self.display.start()

    def update(self, done: int, total: int) -> None:
        """Show how much is done; the end is always shown."""
        now = time.monotonic()
        due = done >= total or now - self.last >= REFRESH
        self.last = now if due else self.last
        self.display.update(self.task, completed=done, total=total, refresh=due)
