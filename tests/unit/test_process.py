"""Functions in processes of their own: what comes back, what went wrong, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import faults
import numpy as np
import pytest

from sandglass.core import process
from sandglass.core.errors import ArtifactError, BackendError, CrashError, InputError
from sandglass.core.parallel import in_threads
from sandglass.core.process import LIMIT, Process, group_seconds, run_isolated, run_program, time_limit


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which gets the logs."""
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def crash_of(function: Callable[..., object], *arguments: object) -> tuple[str, str]:
    """The message of the CrashError that a function ends in, and the log that its fix names."""
    with pytest.raises(CrashError) as caught:
        run_isolated("target", function, *arguments)
    path = Path(caught.value.fix.split()[-1])
    return caught.value.message, path.read_text()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def is_running(number: int) -> bool:
    """Whether a process computes or waits: one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_result_comes_back() -> None:
    """What a function returns, from another process."""
    assert run_isolated("sum", faults.add, 2, 3) == 5
    assert run_isolated("number", os.getpid) != os.getpid()


def test_own_error_keeps_class_message_and_fix() -> None:
    """As if it had been raised here."""
    with pytest.raises(ArtifactError) as caught:
        run_isolated("target", faults.refuse)
    assert (caught.value.message, caught.value.fix) == ("there is no file x", "make it")


def test_full_disk_is_one_line() -> None:
    """The system's errors have a fix that is the user's."""
    with pytest.raises(BackendError, match="No space left on device") as caught:
        run_isolated("target", faults.full_disk)
    assert "free disk space" in caught.value.fix


def test_unexpected_error_is_a_line_and_a_log() -> None:
    """The line names target and error, the log has the trace."""
    message, log = crash_of(faults.surprise)
    assert message == "target: unexpected KeyError: 'cls_8'"
    assert "Traceback" in log
    assert "in surprise" in log
    crash_of(faults.unpicklable)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def test_crash_names_its_signal(number: signal.Signals) -> None:
    """The log says where the process was."""
    message, log = crash_of(faults.killed, number)
    assert message == f"target crashed (signal {number.value}, {number.name})"
    assert "in killed" in log


def test_end_for_lack_of_memory_is_named() -> None:
    """A system that runs out of memory kills by signal 9."""
    message, _ = crash_of(faults.killed, signal.SIGKILL)
    assert "signal 9" in message
    assert "memory" in message


def test_end_by_itself_is_named_with_what_was_printed() -> None:
    """Some runtimes call exit."""
    message, log = crash_of(faults.leave)
    assert message == "target ended by itself (exit code 3)"
    assert "so long" in log


def ended(function: Callable[[], None]) -> tuple[str, str, str]:
    """Message and fix of the CrashError that a call ends in which does not return, and the log."""
    with Process("target", faults.partial_of, function) as one, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(LIMIT, "4")  # it has begun: how long that takes depends on what else runs
        monkeypatch.setattr(process, "IDLE_SECONDS", 2.0)
        monkeypatch.setattr(process, "LOOK_SECONDS", 0.2)
        with pytest.raises(CrashError) as caught:
            one.call(partial.__call__)
    return caught.value.message, caught.value.fix, Path(caught.value.fix.split()[-1]).read_text()


def test_limit_ends_it() -> None:
    """A step that takes too long is ended, though it computes, and the log says where it was."""
    message, fix, log = ended(faults.spin)
    assert message == "target took more than 4 s"
    assert f"{LIMIT}=SECONDS" in fix
    assert "in spin" in log


@pytest.mark.parametrize("function", [faults.sleep, faults.lock])
def test_one_that_computes_nothing_hangs(function: Callable[[], None]) -> None:
    """It is ended long before the limit."""
    message, _, log = ended(function)
    assert message == "target hangs: it computed nothing for 2 s"
    assert f"in {function.__name__}" in log


def test_several_threads_call_at_once() -> None:
    """As many as there are callers, with arrays larger than a pipe holds."""
    arrays = [np.full((1000, 1000), i, np.float32) for i in range(3)]
    with Process("counter", faults.Counter, callers=3) as counter, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda array: counter.call(faults.Counter.meet, array), arrays))
    np.testing.assert_array_equal(found, [2 * array for array in arrays])


def test_process_survives_an_error_and_remembers_its_end() -> None:
    """After an error it answers on; after a crash every call says how it ended."""
    with Process("counter", faults.Counter) as counter:
        for _ in range(2):
            with pytest.raises(CrashError, match="unexpected KeyError"):
                counter.call(faults.Counter.surprise)
        for _ in range(2):
            with pytest.raises(CrashError, match="signal 11, SIGSEGV"):
                counter.call(faults.Counter.crash)
    with pytest.raises(CrashError, match="signal 11, SIGSEGV"):
        counter.call(faults.Counter.surprise)


def test_crash_ends_every_call() -> None:
    """Threads that wait for others' calls are not left waiting."""
    with Process("counter", faults.Counter, callers=2) as counter, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(counter.call, faults.Counter.meet, np.zeros(1))
        crashing = pool.submit(counter.call, faults.Counter.crash)
        for future in (waiting, crashing):
            assert "SIGSEGV" in str(future.exception(timeout=60))


def test_temporary_files_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a process that was killed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = Path(run_isolated("target", faults.temporary_folder))
    assert tmp_path in folder.parents
    assert not folder.exists()


def numbers_in(folder: Path) -> list[int]:
    """Those that `write_numbers` writes, as soon as they are there."""
    files = [folder / name for name in ("program", "process")]
    assert wait_until(lambda: all(file.is_file() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import faults
from pathlib import Path
from sandglass.core.process import run_isolated
run_isolated("target", faults.write_numbers, Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_parent(number: signal.Signals, tmp_path: Path) -> None:
    """The process and the programs that it runs end with it, however it ends. The script needs no guard."""
    script = SCRIPT.format(tests=str(Path(faults.__file__).parent))
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=faults.heed_interrupts) as parent:
        children = numbers_in(tmp_path)
        assert all(map(is_running, children))
        parent.send_signal(number)
        assert parent.wait(timeout=60) != 0
    assert wait_until(lambda: not any(map(is_running, children)))


def test_closing_ends_it(tmp_path: Path) -> None:
    """Within a call too: the one who waits is told."""
    with Process("target", faults.partial_of, faults.write_numbers, tmp_path) as one, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(one.call, partial.__call__)
        children = numbers_in(tmp_path)
        one.close()
        assert "was ended" in str(waiting.exception(timeout=60))
    assert wait_until(lambda: not any(map(is_running, children)))


def test_limit_is_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds above 0; anything else is the user's mistake."""
    monkeypatch.setenv(LIMIT, "7.5")
    assert time_limit() == 7.5
    for wrong in ("0", "-1", "soon", "nan", "inf", "1e300"):
        monkeypatch.setenv(LIMIT, wrong)
        with pytest.raises(InputError, match="expected seconds above 0"):
            time_limit()


def test_programs_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter or compiler that hangs is an error with a fix."""
    monkeypatch.setenv(LIMIT, "0.5")
    with pytest.raises(BackendError, match=r"took more than 0\.5 s"):
        run_program([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path)
    monkeypatch.setenv(LIMIT, "60")
    ended = run_program([sys.executable, "-c", "import os, sys; print(os.getcwd()); sys.exit(3)"], tmp_path)
    assert (ended.returncode, ended.stdout.strip()) == (3, str(tmp_path))


def test_threads_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in threads that does not end is an error, and what was not begun is not begun."""
    assert list(in_threads(abs, [-1, 2, -3], "a number", threads=2)) == [1, 2, 3]
    monkeypatch.setenv(LIMIT, "0.1")
    with pytest.raises(CrashError, match="a nap took more than"):
        list(in_threads(time.sleep, [2.0, 600.0, 600.0], "a nap", threads=1))


def test_processor_time_of_a_group_is_read() -> None:
    """That of this process's group is more than nothing, that of one that is not there unknown."""
    assert (group_seconds(os.getpgrp()) or 0) > 0
    assert group_seconds(2**30) is None


def test_log_goes_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache cannot be written it lies among temporary files."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path / "file"))
    _, log = crash_of(faults.surprise)
    assert "in surprise" in log
