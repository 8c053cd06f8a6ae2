"""Parallel work in threads: NumPy, OpenCV and the runtimes release the interpreter lock while they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from queue import Empty, SimpleQueue
from typing import TypeVar

from sandglass.core import host
from sandglass.core.errors import CrashError
from sandglass.core.process import LIMIT, time_limit

Item = TypeVar("Item")
Result = TypeVar("Result")
STEPS = 2  # time limits to wait for a future, because its work may itself wait for a process with one time limit


def wait_for(future: Future[Result], what: str) -> Result:
    """Wait for a future's result. Raises CrashError with the name `what` if it takes too long (see `time_limit`)."""
    limit = STEPS * time_limit()
    try:
        return future.result(limit)
    except FutureTimeout as error:
        if future.done():  # the work itself raised it
            raise
        raise CrashError(f"{what} took more than {limit:g} s", f"set {LIMIT}=SECONDS to a larger limit") from error


def take_from(queue: SimpleQueue[Item], what: str) -> Item:
    """Wait for the next entry of a queue that `what` fills. Raises CrashError with this name if it takes too long."""
    limit = time_limit()
    try:
        return queue.get(timeout=limit)
    except Empty as error:
        raise CrashError(f"{what} took more than {limit:g} s", f"set {LIMIT}=SECONDS to a larger limit") from error


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], what: str, threads: int | None = None
) -> Iterator[Result]:
    """The results of `function` for all items, in order, computed by `threads` threads (default: one for each core).

    All items are read before the first result. Errors of `function` are raised here, and CrashError if it takes too
    long; the remaining items are then not started. `what` names the work in this error.
    """
    pool = ThreadPoolExecutor(threads or host.threads())
    try:
        for future in [pool.submit(function, item) for item in items]:
            yield wait_for(future, what)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
