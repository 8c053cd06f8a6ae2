"""Inputs, one after the other, in processes of their own: what is slow, large, not our error, or ends the process."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sandglass.core.errors import SandglassError

from .mutation import mutated
from .readers import Reader

MOST_SECONDS = 5.0  # of processor time for one input
MOST_BYTES = 1 << 30  # of memory, with what the process had before
PATIENCE = 60.0  # seconds that an input may take in all, on a machine that has other work
BATCH = 2000  # inputs of one process
HARD_LIMIT = 6 << 30  # bytes of address space, which keeps the machine alive


@dataclass
class Result:
    """What became of the inputs of one reader: how many were read or refused, and the failures by input."""

    reader: str
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    slowest: float = 0.0
    largest: int = 0


def fuzz(reader: Reader, count: int, seed: int, folder: Path, first: int = 0) -> Result:
    """Read `count` inputs, beginning with number `first`; the same seed gives the same inputs."""
    result = Result(reader.name)
    path = folder / reader.name / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    place = first
    while place < first + count:
        place = _batch(reader, range(place, min(place + BATCH, first + count)), seed, path, result)
    return result


def _batch(reader: Reader, numbers: range, seed: int, path: Path, result: Result) -> int:
    """Run a process over the inputs; the number of the next one."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        status = 1
        try:
            _child(reader, numbers, seed, path, sender)
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    with os.fdopen(receiver) as lines:
        place = _follow(lines, child, numbers.start, result)
    _, status = os.waitpid(child, 0)
    if place < numbers.stop and status:
        why = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
        result.failures.setdefault(place, f"the process ended with {why}")
        result.inputs += 1
        return place + 1
    return place


def _follow(lines: IO[str], child: int, place: int, result: Result) -> int:
    while True:
        ready, _, _ = select.select([lines], [], [], PATIENCE)
        if not ready:
            result.failures[place] = f"it took over {PATIENCE:g} s"
            os.kill(child, signal.SIGKILL)
            return place
        line = lines.readline()
        if not line:
            return place
        number, outcome, failure, seconds, size = json.loads(line)
        result.inputs += 1
        result.outcomes[outcome] += 1
        result.slowest, result.largest = max(result.slowest, seconds), max(result.largest, size)
        if failure:
            result.failures[number] = failure
        place = number + 1


def _child(reader: Reader, numbers: range, seed: int, path: Path, sender: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (HARD_LIMIT, HARD_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    for number in numbers:
        path.write_bytes(mutated(reader.kind, reader.seeds, key(reader, seed, number)))
        outcome, failure, seconds = attempt(reader, path)
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if not failure and size > MOST_BYTES:
            failure = f"it took {size / 1e6:.0f} MB"
        os.write(sender, (json.dumps([number, outcome, failure, seconds, size]) + "\n").encode())
        if size > MOST_BYTES:  # the largest size stays that of the process: go on in another one
            return


def key(reader: Reader, seed: int, number: int) -> str:
    """What an input follows from."""
    return f"{reader.name} {seed} {number}"


def attempt(reader: Reader, path: Path) -> tuple[str, str, float]:
    """Read one input: "read", "refused" or "failed", the failure, and the seconds of processor time."""
    outcome, failure, start = "read", "", time.process_time()
    try:
        reader.read(path)
    except SandglassError as error:
        outcome = "refused"
        if "\n" in error.message:
            outcome, failure = "failed", f"the message has several lines: {error.message[:80]!r}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "sandglass" in frame.filename]
        where = (own or [last])[-1]
        outcome = "failed"
        failure = f"{type(error).__name__}: {str(error)[:120]!r} at {Path(where.filename).name}:{where.lineno}"
    seconds = time.process_time() - start
    if seconds > MOST_SECONDS:
        outcome, failure = "failed", failure or f"it took {seconds:.1f} s"
    return outcome, failure, seconds
