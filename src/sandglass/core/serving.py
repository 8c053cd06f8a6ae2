"""The code that runs in a process of `process.Process`: it answers calls until its parent ends."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sandglass.core.channel import Channel, Descriptors, Packed, pack
from sandglass.core.errors import BackendError, SandglassError

VALUE, ERROR, FAULT = "value", "error", "fault"  # kinds of answers
OUT_OF_MEMORY_SCORE = "500"  # of 1000: counts as if the process used half of the machine's memory more
WRITE_TRACES = signal.SIGUSR1  # makes a process write the stack traces of its threads


def serve(channels: Sequence[Descriptors], lifeline: int) -> None:
    """Create the object that the first call describes, then answer calls, one thread for each channel."""
    _end_with_parent(lifeline)
    faulthandler.register(WRITE_TRACES)  # writes to standard error, which is a log file
    with suppress(OSError):  # if memory runs out, the system ends this process and not its parent
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE, encoding="ascii")
    first, *others = map(Channel.inherited, channels)
    subjects: list[object] = []
    with suppress(EOFError, ConnectionError):  # the parent has ended
        _answer(first, lambda make, *arguments: subjects.append(make(*arguments)))
        if subjects:
            for channel in others:
                threading.Thread(target=_answer_all, args=(channel, subjects[0]), daemon=True).start()
            _answer_all(first, subjects[0])


def _end_with_parent(lifeline: int) -> None:
    """Ask the system for SIGIO, which ends the process group, when the parent's end of the lifeline closes.

    A thread that watches the lifeline would not do: it may never run if the process has a deadlock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent has ended already
        os._exit(1)


def _answer_all(channel: Channel, subject: object) -> None:
    def call_method(method: str, *arguments: object) -> object:
        return getattr(subject, method)(*arguments)

    with suppress(EOFError, ConnectionError):
        while True:
            _answer(channel, call_method)


def _answer(channel: Channel, function: Callable[..., object]) -> None:
    received = channel.take()
    channel.put(_outcome(lambda: function(*channel.unpack(received))))


def _outcome(call: Callable[[], object]) -> Packed:
    """The outcome of a call: a value, a SandglassError, or the name of any other error, whose stack trace is logged.

    Only here all exceptions are caught, because a runtime may raise any of them.
    """
    try:
        return pack((VALUE, call()))
    except SandglassError as error:
        return pack((ERROR, error))
    except OSError as error:  # for example a full disk
        traceback.print_exc()
        return pack((ERROR, BackendError(str(error), "free disk space, or check the permissions")))
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        line = next(iter(str(error).strip().splitlines()), "")
        return pack((FAULT, f"{type(error).__name__}: {line}"))
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
