"""An estimate of the time that a long run still takes, for its lines of progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

MINUTE = 60.0


@dataclass
class _Stage:
    """Steps that are alike: the expected time of one, and the time of those that are done."""

    steps: int
    seconds: float
    runs: float
    done: int = 0
    spent: float = 0.0

    def left(self, run: float | None) -> float | None:
        """Seconds; None if the expected time counts runs of the network and the time of a `run` is not known."""
        rest = max(0, self.steps - self.done)
        if self.done or not rest:
            return rest * self.spent / max(1, self.done)
        if self.runs and run is None:
            return None
        return rest * (self.seconds + self.runs * (run or 0.0))


class TimeLeft:
    """Seconds left of stages whose steps are alike, each at its own pace as soon as one step is done.

    Until then a step takes its expected time: seconds, plus a number of runs of the network, whose time is `measured`
    on the way. There is no estimate until the expected time of every stage is known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._stages: dict[str, _Stage] = {}
        self._run: float | None = None

    def expect(self, stage: str, steps: int, seconds: float = 0.0, runs: float = 0.0) -> None:
        """Expect a stage of `steps`, each of which takes `seconds` and `runs` of the network."""
        self._stages[stage] = _Stage(steps, seconds, runs)

    def measured(self, run: float) -> None:
        """Set the seconds of one run of the network."""
        self._run = run

    def step(self, stage: str) -> None:
        """Count a step of a stage as done; its time is the time since the last step of any stage."""
        now, current = self._clock(), self._stages.setdefault(stage, _Stage(1, 0.0, 0.0))
        current.done += 1
        current.spent += now - self._last
        self._last = now

    def end(self, stage: str) -> None:
        """End a stage that needs no more steps."""
        if stage in self._stages:
            self._stages[stage].steps = self._stages[stage].done

    def seconds(self) -> float | None:
        """The time left of all stages, less the time since the last step; None while it is not known."""
        left = [stage.left(self._run) for stage in self._stages.values()]
        known = [seconds for seconds in left if seconds is not None]
        if not known or len(known) < len(left):
            return None
        return max(0.0, sum(known) - (self._clock() - self._last))

    def saying(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say` with the estimate at the end of each line."""

        def said(line: str) -> None:
            seconds = self.seconds()
            say(line if not seconds else f"{line} ({duration_text(seconds)} left)")

        return said


def duration_text(seconds: float) -> str:
    """A duration to five seconds or to the minute: an estimate is not more precise."""
    if seconds >= 1.5 * MINUTE:
        return f"about {seconds / MINUTE:.0f} min"
    return f"about {max(5, 5 * round(seconds / 5))} s"


Say = Callable[[str], None]
