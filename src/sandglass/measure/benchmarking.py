"""Speed of artifacts on their runtimes: a warm-up, then short bursts in turns.

The turns keep ratios between artifacts right if the speed of the machine changes. Each artifact runs in a process of
its own.
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

WARM_UP_SECONDS = 0.5  # inference before the first burst
BURST_SECONDS = 0.25  # inference in one turn of an artifact
ALONE_SECONDS = 1.0  # inference on one thread, for the comparison in `undisturbed`
# Ratio to the time on one thread above which a measurement on several threads counts as disturbed: on a quiet machine
# they save at least a tenth.
CROWDED = 0.9
ATTEMPTS = 3  # measurements of a disturbed machine, at most


@dataclass(frozen=True)
class Speed:
    """The speed of an artifact: inference alone, without preprocessing and decoding.

    median, p90, p99, minimum  milliseconds of one batch
    throughput                 images per second
    peak_memory                of the process, in MiB
    runs                       number of measured runs
    settings, tuned_for        settings of the runtime, and the goal that they were tuned for, or ""
    shape                      (height, width) of the input, for an artifact with several shapes
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
        """The result as JSON data, with the conditions of the measurement."""
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
    """Time each artifact for `seconds` of inference with `batch` images in a call, in interleaved bursts.

    Artifacts run with their tuned settings, if there are any, and on `threads` threads (default: the tuned number, or
    all cores). An artifact with several shapes is timed at each of them and has one result for each, in their order.
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
    """`benchmark` with errors as results: for each artifact its speeds or its error, which does not stop the others."""
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
    """One artifact in a benchmark: its process, the seconds of its runs by shape, and the error that stopped it."""

    def __init__(self, artifact: Artifact, threads: int, batch: int) -> None:
        self.artifact, self.threads, self.batch = artifact, threads, batch
        self.times: dict[Size | None, list[float]] = {shape: [] for shape in artifact.shapes or (None,)}
        self.memory = 0.0
        self.error: SandglassError | None = None
        self.worker: Worker | None = None
        self.attempt(self._open)

    def attempt(self, step: Callable[[], None]) -> None:
        """Call a step, unless an earlier one failed."""
        try:
            if self.error is None:
                step()
        except SandglassError as error:
            self.error = error

    def _open(self) -> None:
        self.worker = Worker(self.artifact, self.threads, self.batch)

    def warm_up(self) -> None:
        """Run a burst at each shape without counting it."""
        assert self.worker is not None
        for shape in self.times:
            self.worker.burst(WARM_UP_SECONDS, shape)

    def burst(self) -> None:
        """Run a burst at each shape."""
        assert self.worker is not None
        for shape, collected in self.times.items():
            collected.extend(self.worker.burst(BURST_SECONDS, shape))

    def weigh(self) -> None:
        """Record the peak memory of the process."""
        assert self.worker is not None
        self.memory = self.worker.peak_memory()

    def speeds(self) -> list[Speed]:
        """The speed at each shape."""
        return [
            speed(self.artifact, seconds, self.memory, self.threads, self.batch, shape)
            for shape, seconds in self.times.items()
        ]

    def close(self) -> None:
        """End the process."""
        if self.worker is not None:
            self.worker.close()


def undisturbed(
    artifacts: Sequence[Artifact], *, seconds: float = 3.0, say: Callable[[str], None] = lambda line: None
) -> list[Speed]:
    """`benchmark`, repeated while the first artifact is hardly faster than on one thread.

    The threads of a runtime wait for each other in each layer. If one of them shares its core with another program, all
    are delayed, and the measured time is not that of the layers. The result is the attempt in which the first artifact
    was fastest.
    """
    attempts = [benchmark(artifacts, seconds=seconds)]
    if artifacts[0].threads > 1:
        alone = benchmark(artifacts[:1], threads=1, seconds=min(seconds, ALONE_SECONDS))[0].median
        while attempts[-1][0].median > CROWDED * alone and len(attempts) < ATTEMPTS:
            name, threads = f"{artifacts[0].backend}:{artifacts[0].precision}", artifacts[0].threads
            say(
                f"benchmark: {name} takes {attempts[-1][0].median:.2f} ms on {threads} threads, {alone:.2f} ms on one; "
                "other programs may be running: measuring again"
            )
            attempts.append(benchmark(artifacts, seconds=seconds))
    return min(attempts, key=lambda speeds: speeds[0].median)


def mean_throughput(speeds: Sequence[Speed]) -> float | None:
    """Images per second over the images for which an artifact's shapes were chosen, from its speed at each shape.

    None if the number of images of each shape is unknown.
    """
    counts = [speed.artifact.shapes.get(speed.shape, 0) if speed.shape else 0 for speed in speeds]
    seconds = sum(count / speed.throughput for count, speed in zip(counts, speeds, strict=True))
    return sum(counts) / seconds if seconds else None


def speed(
    artifact: Artifact, times: list[float], memory: float, threads: int, batch: int, shape: Size | None = None
) -> Speed:
    """The `Speed` from `times`, the seconds of each run of a batch, and `memory`, the peak in MiB."""
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
