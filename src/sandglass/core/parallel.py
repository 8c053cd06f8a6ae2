"""Work on every core, in threads: numpy, OpenCV and the runtimes release the interpreter while they compute."""

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
STEPS = 2  # time limits: the work may itself wait for a process, which has a limit of its own


def wait_for(future: Future[Result], what: str) -> Result:
    """A future's result. Raises CrashError naming `what` where it takes too long (see `time_limit`)."""
    limit = STEPS * time_limit()
    try:
        return future.result(limit)
    except FutureTimeout as error:
        if future.done():  # the work itself raised it
            raise
        raise CrashError(f"{what} took more than {limit:g} s", f"give it more by {LIMIT}=SECONDS") from error


def take_from(queue: SimpleQueue[Item], what: str) -> Item:
    """The next entry of a queue. Raises CrashError naming `what`, which puts entries there, where it takes too long."""
    limit = time_limit()
    try:
        return queue.get(timeout=limit)
    except Empty as error:
        raise CrashError(f"{what} took more than {limit:g} s", f"give it more by {LIMIT}=SECONDS") from error


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], what: str, threads: int | None = None
) -> Iterator[Result]:
    """`function` of each item, in order, computed by `threads` threads (default: one for each core).

    All items are read before the first result. Raises the errors of `function`, and CrashError where it takes too long;
    no further item is begun then.
    """
    pool = ThreadPoolExecutor(threads or host.threads())
    try:
        for future in [pool.submit(function, item) for item in items]:
            yield wait_for(future, what)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
