"""Ways to run one artifact, timed against each other in short bursts in turn, so that their ratios survive drift."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.backends import Settings
from sandglass.core.errors import SandglassError
from sandglass.measure.worker import Worker

WARM_UP_SECONDS = 0.3
BURST_SECONDS = 0.15
ROUNDS = 6
HOPELESS = 1.3  # times slower in two rounds: not timed further


@dataclass(frozen=True)
class Configuration:
    """How an artifact is run; `settings` holds what differs from the runtime's defaults."""

    threads: int
    batch: int = 1
    processes: int = 1
    settings: Settings = field(default_factory=dict)


class Lane:
    """One configuration with its processes."""

    def __init__(self, artifact: Artifact, how: Configuration) -> None:
        self.how, self.workers = how, list[Worker]()
        self.rounds: list[tuple[float, float]] = []  # milliseconds of a batch, images per second
        self.error: SandglassError | None = None  # what ended it in a race
        try:
            for _ in range(how.processes):
                self.workers.append(Worker(artifact, how.threads, how.batch, how.settings))
            self.burst(WARM_UP_SECONDS)
        except SandglassError:
            self.close()
            raise
        self.rounds.clear()

    def burst(self, seconds: float) -> None:
        """One round of all processes at once."""
        for worker in self.workers:
            worker.start(seconds)
        bursts = [worker.finish() for worker in self.workers]
        middle = float(np.median([spent for times in bursts for spent in times])) * 1e3
        self.rounds.append((middle, sum(self.how.batch * len(times) / sum(times) for times in bursts)))

    def survives(self, seconds: float) -> bool:
        """One round, and whether its processes did not fail in it."""
        try:
            self.burst(seconds)
        except SandglassError as error:
            self.error = error
        return self.error is None

    def ratios(self, base: Lane, goal: str) -> np.ndarray:
        """How many times faster than `base` in each round that both ran."""
        mine, other = np.array(self.rounds), np.array(base.rounds[: len(self.rounds)])
        return other[:, 0] / mine[:, 0] if goal == "latency" else mine[:, 1] / other[:, 1]

    def middle(self) -> dict[str, float]:
        """Medians over rounds: milliseconds of a batch, images per second."""
        milliseconds, throughput = np.median(np.array(self.rounds), axis=0)
        return {"milliseconds": round(float(milliseconds), 3), "throughput": round(float(throughput), 2)}

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.close()


def race(base: Lane, lanes: Sequence[Lane], goal: str, deadline: float, rounds: int = ROUNDS) -> None:
    """Bursts of every lane in turn, at least two rounds; a lane that is hopeless or fails is timed no further.

    What a lane failed with is its `error`. Raises that of `base`.
    """
    base.rounds.clear()
    racing = list(lanes)
    for turn in range(rounds):
        if not racing or (turn >= 2 and time.perf_counter() > deadline):
            return
        base.burst(BURST_SECONDS)
        racing = [lane for lane in racing if lane.survives(BURST_SECONDS)]
        racing = [lane for lane in racing if turn < 1 or lane.ratios(base, goal).max() > 1 / HOPELESS]
