"""Speed of artifacts on their runtimes: warm-up, then short bursts of each in turn, so that ratios survive drift.

Each artifact runs in a process of its own: its peak memory is its own, and no runtime's threads meet another's.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from sandglass import host
from sandglass.artifact import Artifact, load_artifact
from sandglass.buckets import Size
from sandglass.errors import BackendError, SandglassError

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


class Worker:
    """An artifact in its own process, which runs bursts on request.

    Without `settings` it runs with those that it is tuned to. Raises the SandglassError that it meets there.
    """

    def __init__(self, artifact: Artifact, threads: int, batch: int, settings: Mapping[str, Any] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = str(artifact.folder)
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(other, artifact.folder, threads, batch, settings), daemon=True
        )
        self.process.start()
        other.close()
        try:
            self._receive()
        except SandglassError:
            self.close()
            raise

    def burst(self, seconds: float, shape: Size | None = None) -> list[float]:
        """Seconds of each run in a burst of about `seconds`, at least one, at one of the artifact's shapes."""
        self.start(seconds, shape)
        return self.finish()

    def start(self, seconds: float, shape: Size | None = None) -> None:
        """Begin a burst; `finish` waits for it."""
        self.pipe.send(("burst", seconds, shape))

    def finish(self) -> list[float]:
        """Seconds of each run in the burst that was begun."""
        return list(self._receive())

    def outputs(self, images: int) -> dict[str, np.ndarray]:
        """What it computes from `images` inputs of the artifact's noise."""
        self.pipe.send(("outputs", images))
        return dict(self._receive())

    def peak_memory(self) -> float:
        """The process's largest resident size so far, MiB."""
        self.pipe.send("memory")
        return float(self._receive())

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()

    def _receive(self) -> Any:
        try:
            answer = self.pipe.recv()
        except EOFError as error:
            raise BackendError(
                f"{self.name}: the runtime's process died", "try fewer threads or a smaller batch"
            ) from error
        if isinstance(answer, SandglassError):
            raise answer
        return answer


def _serve(pipe: Connection, folder: Path, threads: int, batch: int, settings: Mapping[str, Any] | None) -> None:
    try:
        artifact = load_artifact(folder)
        session = artifact.open(threads, settings)
        inputs = cache(lambda shape: artifact.noise(batch, shape))
        session.run(inputs(None))
    except SandglassError as error:
        pipe.send(error)
        return
    pipe.send("ready")
    while True:
        request = pipe.recv()
        if request == "memory":
            pipe.send(_peak_memory())
        elif request[0] == "outputs":
            pipe.send(session.run(artifact.noise(request[1])))
        else:
            _, seconds, shape = request
            images = inputs(shape)
            pipe.send(_burst(partial(session.run, images), seconds))


def _peak_memory() -> float:
    """MiB. On Linux not from getrusage, which starts a child at its parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _burst(run: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return times
