"""Run a runtime in a separate process, which may crash, hang or be killed without harm to this process.

The new process starts with `core.serving` and does not run the parent's main module again, as multiprocessing does. So
a script needs no `if __name__ == "__main__"`, and calls work in a notebook too. The output of the process goes to a
log, which is kept after a failure. The process ends with its parent, in whatever way the parent ends.

Every wait for the process has a limit: `time_limit()` for one step, and IDLE_SECONDS without any computation, which is
the sign of a deadlock.
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
DEFAULT_LIMIT = 3600.0  # seconds for one step; building and checking a large network takes minutes on a slow machine
# A process hangs if it uses less than this share of one core for this number of seconds. A process that computes gets
# more than this even if a hundred others compete; one with a deadlock only wakes up now and then.
IDLE_SECONDS, IDLE_SHARE = 120.0, 0.01
LOOK_SECONDS = 5.0  # seconds between two checks of the processor time
END_SECONDS = 30.0  # seconds for the system to end a process, which may have to write a core dump first
TRACE_SECONDS = 0.5  # seconds for a hanging process to write its stack traces
LOG_BYTES = 1 << 20  # bytes of the log: the end of the process's output


def time_limit() -> float:
    """The time limit of one step in seconds: SANDGLASS_TIME_LIMIT, or an hour. Raises InputError for a wrong value."""
    text = os.environ.get(LIMIT, "")
    try:
        seconds = float(text or DEFAULT_LIMIT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise InputError(f"{LIMIT} is {text!r}, expected seconds above 0", "unset it, or set a number like 3600")
    return seconds


def run_isolated(name: str, function: Callable[..., Result], *arguments: object, more_seconds: float = 0.0) -> Result:
    """Call `function(*arguments)` in a separate process, and return its result. `name` names the process in messages.

    The function must be importable, and its arguments and result must be picklable. It may take `more_seconds` longer
    than `time_limit()`. A SandglassError of the function is raised here. Raises CrashError if the function raises
    another error, if the process dies, and if it takes too long.
    """
    with Process(name, partial, function, *arguments) as process:
        bound: Callable[..., Result] = partial.__call__
        return process.call(bound, more_seconds=more_seconds)


def run_program(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`, and return its exit code and output. Raises BackendError if it takes too long."""
    limit = time_limit()
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"{Path(command[0]).name} took more than {limit:g} s", f"set {LIMIT}=SECONDS to a larger limit"
        ) from error


class Process:
    """The object that `make(*arguments)` returns, in a separate process, which a `with` statement ends.

    Up to `callers` threads may call its methods at the same time. Errors of `make` are raised here (see `call`).
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
            start_new_session=True,  # Ctrl-C reaches only this process, and the whole group can be ended at once
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
        """The id of the process and of its process group, which includes the programs that it runs."""
        return self._process.pid

    def call(self, method: Callable[..., Result], *arguments: object, more_seconds: float = 0.0) -> Result:
        """Call a method of the object, given as `Class.method`, and return its result.

        A SandglassError of the method is raised here. Raises CrashError for any other error, and for a process that
        dies or takes more than `time_limit()` plus `more_seconds`.
        """
        return self.begin(method, *arguments, more_seconds=more_seconds)()

    def begin(
        self, method: Callable[..., Result], *arguments: object, more_seconds: float = 0.0
    ) -> Callable[[], Result]:
        """Start a call, and return a function that waits for its result."""
        return self._begin(method.__name__, *arguments, more_seconds=more_seconds)

    def _begin(
        self, what: str | Callable[..., object], *arguments: object, more_seconds: float = 0.0
    ) -> Callable[[], Any]:
        """Send a method's name, or first the function that creates the object. Returns a function for the answer."""
        limit = time_limit() + more_seconds
        try:
            channel = self._free.get(timeout=limit)
        except Empty as error:
            raise self._failed(f"no call ended within {limit:g} s") from error
        with suppress(ConnectionError):  # if the process has died, receiving raises the error
            try:
                channel.send((what, *arguments))
            except BlockingIOError as error:
                raise self._failed(f"did not read its input within {limit:g} s") from error
        return partial(self._result, channel, limit)

    def _result(self, channel: Channel, limit: float) -> Any:  # a pickle has no type
        """Wait for the answer from `channel`, and free the channel."""
        try:
            self._wait(channel, limit)
            kind, value = channel.receive()
        except BlockingIOError as error:
            raise self._failed(f"did not finish its answer within {limit:g} s") from error
        except (EOFError, ConnectionError) as error:
            raise self._failed("") from error
        except KeyboardInterrupt:
            self.close()  # otherwise the next call would read the answer of this one
            raise
        finally:
            self._free.put(channel)
        if kind == VALUE:
            return value
        if kind == ERROR:
            raise value
        log = self._keep_log(value)
        raise CrashError(f"{self.name}: unexpected {value}", f"report this line with the log file {log}")

    def _wait(self, channel: Channel, limit: float) -> None:
        """Wait until the process answers or ends. Raises CrashError after `limit` seconds, or if the process hangs."""
        started = last_active = time.monotonic()
        spent = 0.0
        while not channel.pipe.poll(min(LOOK_SECONDS, limit)):
            now, total = time.monotonic(), group_seconds(self.pid)
            if now - started >= limit:
                raise self._failed(f"took more than {limit:g} s")
            if total is None or total - spent > IDLE_SHARE * IDLE_SECONDS:
                last_active, spent = now, total or 0.0
            elif now - last_active >= IDLE_SECONDS:
                raise self._failed(f"hangs: it computed nothing for {IDLE_SECONDS:g} s")

    def _failed(self, why: str) -> CrashError:
        """The error of a process that ended, or that is ended now because of `why`. All callers get the first error."""
        with self._lock:
            if not self._failure:
                self._failure = self._end(why)
            message, _, fix = self._failure.partition("\n")
        return CrashError(message, fix)

    def _end(self, why: str) -> str:
        """End the process and keep its log. Returns a line with the reason and a line with the fix."""
        if self._closed:
            return f"{self.name}: its process was ended"
        if why:
            with suppress(ProcessLookupError):
                self._process.send_signal(WRITE_TRACES)
            time.sleep(TRACE_SECONDS)
            self._kill()
            log = self._keep_log(why)
            fix = f"if it needs more time, set {LIMIT}=SECONDS; otherwise report this line with the log file {log}"
            return f"{self.name} {why}\n{fix}"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=END_SECONDS)
        self._kill()
        ended = ending(self._process.returncode)
        log = self._keep_log(ended)
        fix = f"report this line with the log file {log}"
        if self._process.returncode == -signal.SIGKILL:
            fix = f"free memory, or use fewer threads, a smaller batch or a smaller input; the log file is {log}"
        return f"{self.name} {ended}\n{fix}"

    def _kill(self) -> None:
        """End the process and the programs that it runs."""
        if self._process.poll() is None:  # otherwise its id may belong to another process by now
            with suppress(ProcessLookupError, PermissionError):  # it has ended in the meantime
                os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a process that waits for a disk ends later
            self._process.wait(timeout=END_SECONDS)

    def _keep_log(self, why: str) -> Path:
        """Write the output of the process to a log file, and return its path."""
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
    """The way a process ended, as the end of a sentence. A code below 0 is the number of a signal."""
    if code is None:
        return "does not answer any more"
    if code == -signal.SIGKILL:
        return "was killed (signal 9, SIGKILL), probably because memory ran out"
    if code < 0:
        known = {entry.value: entry.name for entry in signal.Signals}
        return f"crashed (signal {-code}, {known.get(-code, 'unknown')})"
    return f"ended by itself (exit code {code})"


def group_seconds(group: int) -> float | None:
    """The processor time in seconds that a process group has used; None if the system does not provide it."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended in the meantime
            fields = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def keep_log(name: str, why: str, text: str) -> Path:
    """Write a log file to the cache, or to the system's temporary folder if the cache is not writable.

    Returns the path of the file.
    """
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
