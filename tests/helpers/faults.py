"""Functions that fail in the ways that a runtime may, for processes that tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.core.errors import ArtifactError


def heed_interrupts() -> None:
    """For a new process: SIGINT is not ignored, as it is by what a shell runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


def refuse() -> None:
    """An error of Sandglass."""
    raise ArtifactError("there is no file x", "make it")


def surprise() -> None:
    """An error that nobody expected."""
    raise KeyError("cls_8")


def full_disk() -> None:
    """An error of the system."""
    raise OSError(28, "No space left on device")


def leave() -> None:
    """The end of the process, by its own will."""
    print("so long", flush=True)
    os._exit(3)


def killed(number: int) -> None:
    """The end of the process, by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def sleep() -> None:
    """A wait for nothing."""
    time.sleep(600)


def spin() -> None:
    """Work without an end."""
    while True:
        pass


def lock() -> None:
    """Two threads that wait for each other."""
    first, second = threading.Lock(), threading.Lock()
    first.acquire()
    second.acquire()
    threading.Thread(target=first.acquire, daemon=True).start()
    second.acquire()


def unpicklable() -> Any:
    """A result that cannot be sent."""
    return lambda: None


def write_numbers(folder: Path) -> None:
    """The process's number and that of a program that it runs, in files; then a wait for nothing."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "program").write_text(str(program.pid))
    (folder / "process").write_text(str(os.getpid()))
    time.sleep(600)


def temporary_folder() -> str:
    """Where temporary files go."""
    import tempfile

    return tempfile.mkdtemp()


def partial_of(function: Any, *arguments: Any) -> Any:
    """The call, to be made later."""
    return partial(function, *arguments)


class Counter:
    """Something with a state and with methods that several threads may call at once."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(3)

    def meet(self, array: np.ndarray) -> np.ndarray:
        """Twice the array, as soon as three threads are here."""
        self.barrier.wait(timeout=60)
        return 2 * array

    def surprise(self) -> None:
        """An error that nobody expected."""
        raise KeyError("cls_8")

    def crash(self) -> None:
        """The end of the process."""
        killed(signal.SIGSEGV)
