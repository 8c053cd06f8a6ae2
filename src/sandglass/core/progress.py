"""An estimate of the time that a long run will take, told with each line of progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

MINUTE = 60.0


@dataclass
class _Stage:
    """Steps that are alike: what one takes by a guess, and those that are done took."""

    steps: int
    seconds: float
    runs: float
    done: int = 0
    spent: float = 0.0

    def left(self, run: float | None) -> float | None:
        """Seconds; a guess needs the time of a `run` where it counts any."""
        rest = max(0, self.steps - self.done)
        if self.done or not rest:
            return rest * self.spent / max(1, self.done)
        if self.runs and run is None:
            return None
        return rest * (self.seconds + self.runs * (run or 0.0))


class TimeLeft:
    """Seconds left of stages whose steps are alike, each at its own pace as soon as one step is done.

    Until then a step takes what it is expected to: seconds, and so many runs of the network, whose time is `measured`
    on the way. Before all stages are known nothing is told.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._stages: dict[str, _Stage] = {}
        self._run: float | None = None

    def expect(self, stage: str, steps: int, seconds: float = 0.0, runs: float = 0.0) -> None:
        """A stage of so many steps, each of so many seconds and runs of the network."""
        self._stages[stage] = _Stage(steps, seconds, runs)

    def measured(self, run: float) -> None:
        """Seconds of one run of the network."""
        self._run = run

    def step(self, stage: str) -> None:
        """A step of a stage is done: what passed since the step before it, of any stage, is its time."""
        now, found = self._clock(), self._stages.setdefault(stage, _Stage(1, 0.0, 0.0))
        found.done += 1
        found.spent += now - self._last
        self._last = now

    def end(self, stage: str) -> None:
        """A stage needs no more steps."""
        if stage in self._stages:
            self._stages[stage].steps = self._stages[stage].done

    def seconds(self) -> float | None:
        """What is left of all stages, less what has passed since the last step; None before it can be told."""
        left = [stage.left(self._run) for stage in self._stages.values()]
        known = [seconds for seconds in left if seconds is not None]
        if not known or len(known) < len(left):
            return None
        return max(0.0, sum(known) - (self._clock() - self._last))

    def saying(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say` with the estimate at the end of each line."""

        def said(line: str) -> None:
            seconds = self.seconds()
            say(line if not seconds else f"{line} ({told(seconds)} left)")

        return said


def told(seconds: float) -> str:
    """A rough duration in words: estimates are no better than that."""
    if seconds >= 1.5 * MINUTE:
        return f"about {seconds / MINUTE:.0f} min"
    return f"about {max(5, 5 * round(seconds / 5))} s"


Say = Callable[[str], None]
