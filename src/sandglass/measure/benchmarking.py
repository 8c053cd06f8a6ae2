"""Speed of artifacts on their runtimes: warm-up, then short bursts of each in turn, so that ratios survive drift.

Each artifact runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.backends import Settings
from sandglass.core import host
from sandglass.core.errors import SandglassError
from sandglass.core.json_values import JsonRecord
from sandglass.core.sizes import Size
from sandglass.measure.worker import Worker

WARM_UP_SECONDS = 0.5
BURST_SECONDS = 0.25
ALONE_SECONDS = 1.0
CROWDED = 0.9  # times what one thread takes: more threads save a tenth at least, unless others are at work as well
ATTEMPTS = 3


@dataclass(frozen=True)
class Speed:
    """Latencies in milliseconds of one batch, pure inference; memory in MiB; throughput in images per second.

    `shape` is the input's (height, width), where the artifact has several.
    """

    artifact: Artifact
    median: float
    p90: float
    p99: float
    minimum: float
    throughput: float
    peak_memory: float
    runs: int
    threads: int
    batch: int
    settings: Settings = field(default_factory=dict)
    tuned_for: str = ""
    shape: Size | None = None

    def to_dict(self) -> JsonRecord:
        """JSON-able result with the conditions of the measurement."""
        return {
            "model": self.artifact.card.name,
            "input": list(self.shape or self.artifact.card.input.size),
            **({"images_in_shape": self.artifact.shapes[self.shape]} if self.shape else {}),
            "backend": self.artifact.backend,
            "precision": self.artifact.precision,
            "latency_ms": {"median": self.median, "p90": self.p90, "p99": self.p99, "minimum": self.minimum},
            "images_per_second": self.throughput,
            "peak_memory_mib": self.peak_memory,
            "runs": self.runs,
            "threads": self.threads,
            "batch": self.batch,
            "settings": dict(self.settings),
            "artifact_sha256": self.artifact.sha256,
            "host": host.describe(),
            "command": host.command(),
        }


def benchmark(
    artifacts: Sequence[Artifact],
    *,
    threads: int | None = None,
    batch: int = 1,
    seconds: float = 3.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Speed]:
    """Time each artifact for `seconds` of inference at `batch`, in interleaved bursts, with its tuned settings.

    An artifact of several shapes is timed at each of them and has a result for each, in their order.

    Raises the SandglassError of the first artifact that cannot be loaded or run.
    """
    speeds: list[Speed] = []
    for outcome in benchmark_each(artifacts, threads=threads, batch=batch, seconds=seconds, progress=progress):
        if isinstance(outcome, SandglassError):
            raise outcome
        speeds += outcome
    return speeds


def benchmark_each(
    artifacts: Sequence[Artifact],
    *,
    threads: int | None = None,
    batch: int = 1,
    seconds: float = 3.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Speed] | SandglassError]:
    """`benchmark`, for each artifact its speeds, or the error that stopped it: it stops no other."""
    lanes: list[_Lane] = []
    try:
        for artifact in artifacts:
            lanes.append(_Lane(artifact, threads or artifact.threads, batch))
        rounds = max(1, round(seconds / BURST_SECONDS))
        for lane in lanes:
            lane.attempt(lane.warm_up)
        for turn in range(rounds):
            for lane in lanes:
                lane.attempt(lane.burst)
            progress(turn + 1, rounds)
        for lane in lanes:
            lane.attempt(lane.weigh)
    finally:
        for lane in lanes:
            lane.close()
    return [lane.error or lane.speeds() for lane in lanes]


class _Lane:
    """One artifact that is timed: its process, the seconds of its runs by shape, and the error that stopped it."""

    def __init__(self, artifact: Artifact, threads: int, batch: int) -> None:
        self.artifact, self.threads, self.batch = artifact, threads, batch
        self.times: dict[Size | None, list[float]] = {shape: [] for shape in artifact.shapes or (None,)}
        self.memory = 0.0
        self.error: SandglassError | None = None
        self.worker: Worker | None = None
        self.attempt(self._open)

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, unless one before it failed."""
        try:
            if self.error is None:
                step()
        except SandglassError as error:
            self.error = error

    def _open(self) -> None:
        self.worker = Worker(self.artifact, self.threads, self.batch)

    def warm_up(self) -> None:
        """A burst at each shape that does not count."""
        assert self.worker is not None
        for shape in self.times:
            self.worker.burst(WARM_UP_SECONDS, shape)

    def burst(self) -> None:
        """A burst at each shape."""
        assert self.worker is not None
        for shape, collected in self.times.items():
            collected.extend(self.worker.burst(BURST_SECONDS, shape))

    def weigh(self) -> None:
        """Read the peak memory of the process."""
        assert self.worker is not None
        self.memory = self.worker.peak_memory()

    def speeds(self) -> list[Speed]:
        """The speed at each shape."""
        return [
            speed(self.artifact, spent, self.memory, self.threads, self.batch, shape)
            for shape, spent in self.times.items()
        ]

    def close(self) -> None:
        """End the process."""
        if self.worker is not None:
            self.worker.close()


def undisturbed(
    artifacts: Sequence[Artifact], *, seconds: float = 3.0, say: Callable[[str], None] = lambda line: None
) -> list[Speed]:
    """`benchmark`, and again while the first artifact is hardly faster than on one thread alone.

    A runtime's threads wait for each other in every layer: one that shares its core with other work delays all of them,
    and the time is no longer that of the layers. The attempt counts in which the first artifact was fastest.
    """
    tried = [benchmark(artifacts, seconds=seconds)]
    if artifacts[0].threads > 1:
        alone = benchmark(artifacts[:1], threads=1, seconds=min(seconds, ALONE_SECONDS))[0].median
        while tried[-1][0].median > CROWDED * alone and len(tried) < ATTEMPTS:
            name, took = f"{artifacts[0].backend}:{artifacts[0].precision}", f"{tried[-1][0].median:.2f} ms"
            say(f"benchmark: {name} takes {took}, on one thread {alone:.2f}: measured again, for others may be at work")
            tried.append(benchmark(artifacts, seconds=seconds))
    return min(tried, key=lambda speeds: speeds[0].median)


def mean_throughput(speeds: Sequence[Speed]) -> float | None:
    """Images per second over the images that an artifact's shapes were chosen for, from its speed at each shape.

    None where it is not known how many images have each shape.
    """
    counts = [speed.artifact.shapes.get(speed.shape, 0) if speed.shape else 0 for speed in speeds]
    seconds = sum(count / speed.throughput for count, speed in zip(counts, speeds, strict=True))
    return sum(counts) / seconds if seconds else None


def speed(
    artifact: Artifact, times: list[float], memory: float, threads: int, batch: int, shape: Size | None = None
) -> Speed:
    """Seconds of runs of a batch, and peak memory in MiB, as a Speed."""
    milliseconds, tuned = np.array(times) * 1e3, artifact.tuned()
    median, p90, p99 = np.percentile(milliseconds, (50, 90, 99))
    return Speed(
        artifact,
        median=round(float(median), 4),
        p90=round(float(p90), 4),
        p99=round(float(p99), 4),
        minimum=round(float(milliseconds.min()), 4),
        throughput=round(batch * len(times) / sum(times), 2),
        peak_memory=round(memory, 1),
        runs=len(times),
        threads=threads,
        batch=batch,
        settings=tuned.settings if tuned else {},
        tuned_for=tuned.goal if tuned else "",
        shape=shape,
    )
