"""Configurations of one artifact, timed in short bursts in turns, so that changes of the machine's speed cancel out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.backends import Settings
from sandglass.core.errors import SandglassError
from sandglass.measure.worker import Worker

WARM_UP_SECONDS = 0.3  # inference before the first burst
BURST_SECONDS = 0.15  # inference in one turn of a configuration
ROUNDS = 6  # turns of each configuration
HOPELESS = 1.3  # ratio to the base's time, in all rounds from the second on, at which a configuration is dropped


@dataclass(frozen=True)
class Configuration:
    """A way to run an artifact: threads and processes, images in a call, and settings that differ from the defaults."""

    threads: int
    batch: int = 1
    processes: int = 1
    settings: Settings = field(default_factory=dict)


class Lane:
    """One configuration with its processes and its times."""

    def __init__(self, artifact: Artifact, configuration: Configuration) -> None:
        self.configuration, self.workers = configuration, list[Worker]()
        self.rounds: list[tuple[float, float]] = []  # milliseconds of a batch, images per second
        self.error: SandglassError | None = None  # the error that ended it in a race
        try:
            for _ in range(configuration.processes):
                self.workers.append(
                    Worker(artifact, configuration.threads, configuration.batch, configuration.settings)
                )
            self.burst(WARM_UP_SECONDS)
        except SandglassError:
            self.close()
            raise
        self.rounds.clear()

    def burst(self, seconds: float) -> None:
        """Run one round: all processes at the same time."""
        for worker in self.workers:
            worker.start(seconds)
        bursts = [worker.finish() for worker in self.workers]
        middle = float(np.median([spent for times in bursts for spent in times])) * 1e3
        self.rounds.append((middle, sum(self.configuration.batch * len(times) / sum(times) for times in bursts)))

    def survives(self, seconds: float) -> bool:
        """Run one round; returns whether all processes completed it."""
        try:
            self.burst(seconds)
        except SandglassError as error:
            self.error = error
        return self.error is None

    def ratios(self, base: Lane, goal: str) -> np.ndarray:
        """The speed of this lane over that of `base` in each round that both completed, (rounds,)."""
        times, base_times = np.array(self.rounds), np.array(base.rounds[: len(self.rounds)])  # (rounds, 2)
        return base_times[:, 0] / times[:, 0] if goal == "latency" else times[:, 1] / base_times[:, 1]

    def middle(self) -> dict[str, float]:
        """Medians over rounds: milliseconds of a batch, images per second."""
        milliseconds, throughput = np.median(np.array(self.rounds), axis=0)
        return {"milliseconds": round(float(milliseconds), 3), "throughput": round(float(throughput), 2)}

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.close()


def race(base: Lane, lanes: Sequence[Lane], goal: str, deadline: float, rounds: int = ROUNDS) -> None:
    """Run bursts of all lanes in turns, at least two rounds; a lane that is hopeless or fails drops out.

    The error of a lane is stored in its `error`. Raises the SandglassError of `base`.
    """
    base.rounds.clear()
    racing = list(lanes)
    for turn in range(rounds):
        if not racing or (turn >= 2 and time.perf_counter() > deadline):
            return
        base.burst(BURST_SECONDS)
        racing = [lane for lane in racing if lane.survives(BURST_SECONDS)]
        racing = [lane for lane in racing if turn < 1 or lane.ratios(base, goal).max() > 1 / HOPELESS]
