"""An estimate of the time left of a long run, for its lines of progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

MINUTE = 60.0


@dataclass
class _Stage:
    """A number of similar steps: the expected time of one, and the time of the finished ones.

    One step is expected to take `seconds` plus `runs` times the time of one run of the network.
    """

    steps: int
    seconds: float
    runs: float
    done: int = 0
    spent: float = 0.0

    def left(self, run: float | None) -> float | None:
        """Seconds left. `run` is the time of one run of the network; if it is needed but None, the result is None."""
        rest = max(0, self.steps - self.done)
        if self.done or not rest:
            return rest * self.spent / max(1, self.done)
        if self.runs and run is None:
            return None
        return rest * (self.seconds + self.runs * (run or 0.0))


class TimeLeft:
    """The time left of a run with several stages of similar steps.

    Before the first step of a stage is finished, a step counts with its expected time: seconds, plus a number of runs
    of the network, whose time `measured` sets. Then the mean time of the finished steps counts. There is no estimate
    until the expected time of every stage is known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._stages: dict[str, _Stage] = {}
        self._run: float | None = None

    def expect(self, stage: str, steps: int, seconds: float = 0.0, runs: float = 0.0) -> None:
        """Add a stage of `steps`, each of which takes `seconds` plus the time of `runs` runs of the network."""
        self._stages[stage] = _Stage(steps, seconds, runs)

    def measured(self, run: float) -> None:
        """Set the time of one run of the network, in seconds."""
        self._run = run

    def step(self, stage: str) -> None:
        """Count a step of a stage as finished. Its time is the time since the last step of any stage."""
        now, current = self._clock(), self._stages.setdefault(stage, _Stage(1, 0.0, 0.0))
        current.done += 1
        current.spent += now - self._last
        self._last = now

    def end(self, stage: str) -> None:
        """End a stage early, because it needs no more steps."""
        if stage in self._stages:
            self._stages[stage].steps = self._stages[stage].done

    def seconds(self) -> float | None:
        """The time left of all stages in seconds, minus the time since the last step; None while it is unknown."""
        left = [stage.left(self._run) for stage in self._stages.values()]
        known = [seconds for seconds in left if seconds is not None]
        if not known or len(known) < len(left):
            return None
        return max(0.0, sum(known) - (self._clock() - self._last))

    def saying(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """A version of `say` that adds the time left to each line."""

        def say_with_time(line: str) -> None:
            seconds = self.seconds()
            say(line if not seconds else f"{line} ({duration_text(seconds)} left)")

        return say_with_time


def duration_text(seconds: float) -> str:
    """A duration as text, rounded to five seconds or to the minute, because an estimate is not more precise."""
    if seconds >= 1.5 * MINUTE:
        return f"about {seconds / MINUTE:.0f} min"
    return f"about {max(5, 5 * round(seconds / 5))} s"


Say = Callable[[str], None]
