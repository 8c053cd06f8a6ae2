"""An artifact in a process of its own: its peak memory can be measured, and no other runtime's threads disturb it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.backends import Settings
from sandglass.core.process import Process
from sandglass.core.sizes import Size


class Worker:
    """An artifact in a process of its own, which runs bursts of inferences on request.

    Without `settings` it runs with the tuned ones. Raises the SandglassError of the artifact in the process, and
    CrashError if its runtime crashes or hangs.
    """

    def __init__(self, artifact: Artifact, threads: int, batch: int, settings: Settings | None = None) -> None:
        copied = None if settings is None else dict(settings)
        self._process = Process(str(artifact.folder), _Bench, artifact.folder, threads, batch, copied)
        self._finish: Callable[[], list[float]] = list

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def burst(self, seconds: float, shape: Size | None = None) -> list[float]:
        """Run a burst of about `seconds`, with at least one run, at one of the artifact's shapes.

        Returns the seconds of each run.
        """
        self.start(seconds, shape)
        return self.finish()

    def start(self, seconds: float, shape: Size | None = None) -> None:
        """Begin a burst; `finish` waits for it."""
        self._finish = self._process.begin(_Bench.burst, seconds, shape, more_seconds=seconds)

    def finish(self) -> list[float]:
        """Wait for the burst that `start` began; returns the seconds of each run."""
        return self._finish()

    def outputs(self, images: int) -> dict[str, np.ndarray]:
        """The outputs, by name, for `images` random inputs; they are the same for all workers of an artifact."""
        return self._process.call(_Bench.outputs, images)

    def peak_memory(self) -> float:
        """The largest resident memory of the process so far, in MiB."""
        return self._process.call(_Bench.peak_memory)

    def close(self) -> None:
        """End the process."""
        self._process.close()


class _Bench:
    """The state in the process: the session of the artifact, and inputs for each shape."""

    def __init__(self, folder: Path, threads: int, batch: int, settings: Settings | None) -> None:
        self._artifact, self._batch = load_artifact(folder), batch
        self._session = self._artifact.open(threads, settings)
        self._inputs: dict[Size | None, dict[str, np.ndarray]] = {}
        self._session.run(self._noise(None))

    def burst(self, seconds: float, shape: Size | None) -> list[float]:
        return _burst(partial(self._session.run, self._noise(shape)), seconds)

    def outputs(self, images: int) -> dict[str, np.ndarray]:
        return self._session.run(self._artifact.noise(images))

    def peak_memory(self) -> float:
        return peak_memory()

    def _noise(self, shape: Size | None) -> dict[str, np.ndarray]:
        if shape not in self._inputs:
            self._inputs[shape] = self._artifact.noise(self._batch, shape)
        return self._inputs[shape]


def peak_memory() -> float:
    """The largest resident memory of this process so far, in MiB."""
    # Linux: getrusage would count from the peak of the parent process.
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
