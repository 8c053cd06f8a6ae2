"""Speed of artifacts on their runtimes: warm-up, then short bursts of each in turn, so that ratios survive drift.

Each artifact runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sandglass import host
from sandglass.artifact import Artifact
from sandglass.buckets import Size
from sandglass.worker import Worker

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
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned_for: str = ""
    shape: Size | None = None

    def to_dict(self) -> dict[str, Any]:
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

    An artifact of several shapes is timed so at each of them, and has as many results, in their order.

    Raises the SandglassError of an artifact that cannot be loaded or run.
    """
    workers: list[Worker] = []
    counts = [threads or artifact.threads for artifact in artifacts]
    try:
        for artifact, count in zip(artifacts, counts, strict=True):
            workers.append(Worker(artifact, count, batch))
        lanes = [(i, shape) for i, artifact in enumerate(artifacts) for shape in artifact.shapes or (None,)]
        for i, shape in lanes:
            workers[i].burst(WARM_UP_SECONDS, shape)
        rounds = max(1, round(seconds / BURST_SECONDS))
        times: list[list[float]] = [[] for _ in lanes]
        for turn in range(rounds):
            for (i, shape), collected in zip(lanes, times, strict=True):
                collected.extend(workers[i].burst(BURST_SECONDS, shape))
            progress(turn + 1, rounds)
        memory = [worker.peak_memory() for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    return [
        speed(artifacts[i], spent, memory[i], counts[i], batch, shape)
        for (i, shape), spent in zip(lanes, times, strict=True)
    ]


def undisturbed(
    artifacts: Sequence[Artifact], *, seconds: float = 3.0, say: Callable[[str], None] = lambda line: None
) -> list[Speed]:
    """`benchmark`, and again while the first artifact is hardly faster than on one thread alone.

    A runtime's threads wait for each other in every layer: one that shares its core with another's work holds all up,
    and the time is no longer that of the layers. Of ATTEMPTS counts the one in which the first artifact was fastest.
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
