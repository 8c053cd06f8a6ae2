"""A process of its own for a runtime: it may crash, hang or be killed, and this process goes on.

The process begins with this module, not with its parent's main one as multiprocessing's do: a script needs no guard
around its calls, and a notebook or an interpreter has no file that could be run again. Its output goes to a log, which
is kept after a failure. It ends with its parent, in whatever way the parent ends.

Every wait for it has a limit: `time_limit()` for one step, and IDLE_SECONDS where it computes nothing, as a process
does whose threads wait for each other.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sandglass.core.channel import Channel
from sandglass.core.errors import BackendError, CrashError, InputError
from sandglass.core.files import temporary_folder
from sandglass.core.resume import cache_folder
from sandglass.core.serving import ERROR, VALUE, WRITE_TRACES

Result = TypeVar("Result")
START = "import sys; sys.path[:] = {path!r}; from sandglass.core.serving import serve; serve({channels!r}, {lifeline})"
LIMIT = "SANDGLASS_TIME_LIMIT"
USUAL_LIMIT = 3600.0  # seconds for one step: a large network takes minutes to be built and checked on a slow machine
# A process that computes uses its share of a core even where a hundred others want it. One whose threads wait for
# each other only wakes up to look whether they still do.
IDLE_SECONDS, IDLE_SHARE = 120.0, 0.01
LOOK_SECONDS = 5.0  # between two looks at whether a process still computes
END_SECONDS = 30.0  # for the system to end a process, which may have to write a memory image first
TRACE_SECONDS = 0.5  # for a process that hangs to write its stack traces
LOG_BYTES = 1 << 20  # at the end of a process's output, which are kept


def time_limit() -> float:
    """Seconds that one step may take: SANDGLASS_TIME_LIMIT, or an hour. Raises InputError for any other value."""
    text = os.environ.get(LIMIT, "")
    try:
        seconds = float(text or USUAL_LIMIT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise InputError(f"{LIMIT} is {text!r}, expected seconds above 0", "unset it, or give a number like 3600")
    return seconds


def run_isolated(name: str, function: Callable[..., Result], *arguments: object, more_seconds: float = 0.0) -> Result:
    """The result of `function(*arguments)` in a process of its own. Messages call the process `name`.

    The function can be imported, and its arguments and result can be pickled. It may take `more_seconds` more than
    `time_limit()`. Raises the SandglassError that it raises, and CrashError where it raises anything else, the process
    dies, or takes too long.
    """
    with Process(name, partial, function, *arguments) as process:
        bound: Callable[..., Result] = partial.__call__
        return process.call(bound, more_seconds=more_seconds)


def run_program(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`, and return its exit code and output. Raises BackendError where it takes too long."""
    limit = time_limit()
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"{Path(command[0]).name} took more than {limit:g} s", f"give it more by {LIMIT}=SECONDS"
        ) from error


class Process:
    """The object that `make(*arguments)` returns, in a process of its own.

    `callers` threads may call its methods at once. Raises the errors of `make`, as `call` does. A `with` statement
    closes it.
    """

    def __init__(self, name: str, make: Callable[..., object], *arguments: object, callers: int = 1) -> None:
        self.name, limit = name, time_limit()
        self._lock, self._failure, self._closed = threading.Lock(), "", False
        self._scratch = tempfile.TemporaryDirectory(prefix="sandglass-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        ours, theirs = zip(*(Channel.new() for _ in range(callers)), strict=True)
        self._lifeline, end = socket.socketpair()
        channels = [channel.other(pipe) for channel, pipe in zip(ours, theirs, strict=True)]
        start = START.format(path=sys.path, channels=channels, lifeline=end.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", start],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"TMPDIR": self._scratch.name},
            pass_fds=[end.fileno(), *(descriptor for channel in channels for descriptor in channel)],
            start_new_session=True,  # a terminal's Ctrl-C is ours to answer, and programs that it runs end with it
        )
        for other in (*theirs, end):
            other.close()
        self._free: SimpleQueue[Channel] = SimpleQueue()
        for channel in ours:
            channel.limit(limit)
            self._free.put(channel)
        try:
            self._begin(make, *arguments)()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The number of the process, which leads a group with the programs that it runs."""
        return self._process.pid

    def call(self, method: Callable[..., Result], *arguments: object, more_seconds: float = 0.0) -> Result:
        """Call a method there, given as `Class.method`.

        Raises the SandglassError that it raises, and CrashError for anything else that stops it.
        """
        return self.begin(method, *arguments, more_seconds=more_seconds)()

    def begin(
        self, method: Callable[..., Result], *arguments: object, more_seconds: float = 0.0
    ) -> Callable[[], Result]:
        """Begin a call, and return a function that waits for its result."""
        return self._begin(method.__name__, *arguments, more_seconds=more_seconds)

    def _begin(
        self, what: str | Callable[..., object], *arguments: object, more_seconds: float = 0.0
    ) -> Callable[[], Any]:
        """Send a method's name, or at first what makes the object, and return a function that waits for the answer."""
        limit = time_limit() + more_seconds
        try:
            channel = self._free.get(timeout=limit)
        except Empty as error:
            raise self._failed(f"no call ended within {limit:g} s") from error
        with suppress(ConnectionError):  # where the process has died, receiving says so
            try:
                channel.send((what, *arguments))
            except BlockingIOError as error:
                raise self._failed(f"took no input within {limit:g} s") from error
        return partial(self._result, channel, limit)

    def _result(self, channel: Channel, limit: float) -> Any:  # a pickle has no type
        """The answer that comes from `channel`, which is free then."""
        try:
            self._wait(channel, limit)
            kind, value = channel.receive()
        except BlockingIOError as error:
            raise self._failed(f"gave half an answer within {limit:g} s") from error
        except (EOFError, ConnectionError) as error:
            raise self._failed("") from error
        except KeyboardInterrupt:
            self.close()  # or the next call would take this one's answer for its own
            raise
        finally:
            self._free.put(channel)
        if kind == VALUE:
            return value
        if kind == ERROR:
            raise value
        log = self._keep_log(value)
        raise CrashError(f"{self.name}: unexpected {value}", f"report this line with the log {log}")

    def _wait(self, channel: Channel, limit: float) -> None:
        """Return when an answer or the end comes. Raises CrashError when that takes longer than `limit` seconds."""
        started = looked = time.monotonic()
        spent = 0.0
        while not channel.pipe.poll(min(LOOK_SECONDS, limit)):
            now, total = time.monotonic(), group_seconds(self.pid)
            if now - started >= limit:
                raise self._failed(f"took more than {limit:g} s")
            if total is None or total - spent > IDLE_SHARE * IDLE_SECONDS:
                looked, spent = now, total or 0.0
            elif now - looked >= IDLE_SECONDS:
                raise self._failed(f"hangs: it computed nothing for {IDLE_SECONDS:g} s")

    def _failed(self, why: str) -> CrashError:
        """The process ended by itself, or is ended now because of `why`. All callers get the first reason."""
        with self._lock:
            if not self._failure:
                self._failure = self._end(why)
            message, _, fix = self._failure.partition("\n")
        return CrashError(message, fix)

    def _end(self, why: str) -> str:
        """End the process and keep its log. Returns a line with the reason, and a second line with the fix."""
        if self._closed:
            return f"{self.name}: its process was ended"
        if why:
            with suppress(ProcessLookupError):
                self._process.send_signal(WRITE_TRACES)
            time.sleep(TRACE_SECONDS)
            self._kill()
            log = self._keep_log(why)
            fix = f"if it was still at work give it more by {LIMIT}=SECONDS; else report this line with the log {log}"
            return f"{self.name} {why}\n{fix}"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=END_SECONDS)
        self._kill()
        ended = ending(self._process.returncode)
        log = self._keep_log(ended)
        fix = f"report this line with the log {log}"
        if self._process.returncode == -signal.SIGKILL:
            fix = f"free memory, or try fewer threads, a smaller batch or input; the log is {log}"
        return f"{self.name} {ended}\n{fix}"

    def _kill(self) -> None:
        """End the process and the programs that it runs."""
        if self._process.poll() is None:  # else its number may be another's by now
            with suppress(ProcessLookupError, PermissionError):  # it has ended since, and was not waited for
                os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # the system ends it when its disk answers
            self._process.wait(timeout=END_SECONDS)

    def _keep_log(self, why: str) -> Path:
        """Write the output of the process to a file of its own."""
        return keep_log(self.name, why, self._printed())

    def _printed(self) -> str:
        descriptor = self._log.fileno()
        size = os.fstat(descriptor).st_size
        start = max(0, size - LOG_BYTES)
        return os.pread(descriptor, size - start, start).decode("utf-8", "replace")

    def close(self) -> None:
        """End the process. Calls that wait for it raise CrashError."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._kill()
            self._lifeline.close()
            self._log.close()
            self._scratch.cleanup()


def ending(code: int | None) -> str:
    """How a process ended, by its exit code: below 0 the number of the signal that ended it."""
    if code is None:
        return "answers no longer"
    if code == -signal.SIGKILL:
        return "was killed (signal 9, SIGKILL), as a system does that runs out of memory"
    if code < 0:
        known = {entry.value: entry.name for entry in signal.Signals}
        return f"crashed (signal {-code}, {known.get(-code, 'unknown')})"
    return f"ended by itself (exit code {code})"


def group_seconds(group: int) -> float | None:
    """Processor time in seconds that a group of processes has used; None where the system does not say."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended since
            fields = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def keep_log(name: str, why: str, text: str) -> Path:
    """Write a log into the cache, or the system's temporary folder where that cannot be written; returns its path."""
    slug = re.sub(r"[^\w.-]+", "-", name)[-60:].strip("-.")
    file = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{time.monotonic_ns() % 10**6:06d}.log"
    page = f"{name}: {why}\ncommand: {' '.join(sys.argv)}\npython: {sys.version}\n\n{text}"
    try:
        folder = cache_folder() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(page, encoding="utf-8", errors="replace")
    except (OSError, InputError):
        folder = temporary_folder()
        (folder / file).write_text(page, encoding="utf-8", errors="replace")
    return folder / file
