"""The environment of one search: the folder for trials, the clock, and the output of progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandglass.core.progress import Say, TimeLeft
from sandglass.search.timer import CLOCK, Timer

# The stages for the estimate of the time left.
PLANS, LAYERS, TIMES, CHOICES, SPEEDS = "plans", "layers", "times", "choices", "speeds"


@dataclass(frozen=True)
class Run:
    """The folder `scratch` for trials, the clock `timer`, the function `say` for progress, and the time `left`.

    The estimate of the time left is the only part that changes.
    """

    scratch: Path
    say: Say
    left: TimeLeft
    timer: Timer = CLOCK

    @staticmethod
    def new(scratch: Path, say: Say, timer: Timer = CLOCK) -> Run:
        """A run that adds the time left to its lines of progress."""
        left = TimeLeft()
        return Run(scratch, left.saying(say), left, timer)
