"""How one search runs: where its trials are built, what times them, and where its progress goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandglass.core.progress import Say, TimeLeft
from sandglass.search.timer import CLOCK, Timer

# Stages of the time left.
PLANS, LAYERS, TIMES, CHOICES, SPEEDS = "plans", "layers", "times", "choices", "speeds"


@dataclass(frozen=True)
class Run:
    """The folder `scratch` for trials, the clock, a function for lines of progress, and the estimate of the time left.

    The estimate follows the run: it is the only part of it that changes.
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
