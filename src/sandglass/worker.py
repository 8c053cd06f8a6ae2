"""An artifact in a process of its own: its peak memory is its own, and no runtime's threads meet another's.

The process begins with this module, not with its parent's main one as multiprocessing's do: a script needs no guard
around what it measures, and a notebook or an interpreter has no file that could be run again.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.artifact import Artifact, load_artifact
from sandglass.buckets import Size
from sandglass.errors import BackendError, SandglassError

START = "import sys; sys.path[:] = {path!r}; from sandglass.worker import serve; serve({descriptor})"


class Worker:
    """An artifact in its own process, which runs bursts on request.

    Without `settings` it runs with those that it is tuned to. Raises the SandglassError that it meets there.
    """

    def __init__(self, artifact: Artifact, threads: int, batch: int, settings: Mapping[str, Any] | None = None) -> None:
        self.name = str(artifact.folder)
        self.pipe, other = Pipe()
        start = START.format(path=sys.path, descriptor=other.fileno())
        self.process = subprocess.Popen([sys.executable, "-c", start], pass_fds=[other.fileno()])
        self.pipe.send((artifact.folder, threads, batch, settings))
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
        self._send(("burst", seconds, shape))

    def finish(self) -> list[float]:
        """Seconds of each run in the burst that was begun."""
        return list(self._receive())

    def outputs(self, images: int) -> dict[str, np.ndarray]:
        """What it computes from `images` inputs of the artifact's noise."""
        self._send(("outputs", images))
        return dict(self._receive())

    def peak_memory(self) -> float:
        """The process's largest resident size so far, MiB."""
        self._send("memory")
        return float(self._receive())

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()
        self.pipe.close()

    def _send(self, request: Any) -> None:
        with suppress(ConnectionError):  # where the process has died, receiving tells
            self.pipe.send(request)

    def _receive(self) -> Any:
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise BackendError(
                f"{self.name}: the runtime's process died", "try fewer threads or a smaller batch"
            ) from error
        if isinstance(answer, SandglassError):
            raise answer
        return answer


def serve(descriptor: int) -> None:
    """The process: answers what comes from a socket, until its other end is closed."""
    pipe = Connection(descriptor)
    try:
        _answer(pipe, *pipe.recv())
    except (EOFError, ConnectionError, KeyboardInterrupt):  # the parent has gone, or goes too
        return


def _answer(pipe: Connection, folder: Path, threads: int, batch: int, settings: Mapping[str, Any] | None) -> None:
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
            pipe.send(peak_memory())
        elif request[0] == "outputs":
            pipe.send(session.run(artifact.noise(request[1])))
        else:
            _, seconds, shape = request
            images = inputs(shape)
            pipe.send(_burst(partial(session.run, images), seconds))


def peak_memory() -> float:
    """This process's largest resident size so far, MiB."""
    # On Linux not from getrusage, which starts a child at its parent's peak.
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
