"""What runs in a process that `process.Process` starts: it answers calls until its parent has gone."""

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
OUT_OF_MEMORY_SCORE = "500"  # of 1000: as if it had half of the memory more than it has
WRITE_TRACES = signal.SIGUSR1  # makes a process write where each of its threads is


def serve(channels: Sequence[Descriptors], lifeline: int) -> None:
    """Make the object that the first call describes, then answer calls of its methods, in a thread for each channel."""
    _end_with_parent(lifeline)
    faulthandler.register(WRITE_TRACES)  # to standard error, which is a log
    with suppress(OSError):  # where memory runs out the system ends this process, and not the run that started it
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE, encoding="ascii")
    first, *others = map(Channel.inherited, channels)
    subjects: list[object] = []
    with suppress(EOFError, ConnectionError):  # the parent has gone
        _answer(first, lambda make, *arguments: subjects.append(make(*arguments)))
        if subjects:
            for channel in others:
                threading.Thread(target=_answer_all, args=(channel, subjects[0]), daemon=True).start()
            _answer_all(first, subjects[0])


def _end_with_parent(lifeline: int) -> None:
    """Ask the system for SIGIO, which ends the process group, when the parent's end of the lifeline closes.

    A thread that watched it could not run in a process whose threads wait for each other.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it has gone already
        os._exit(1)


def _answer_all(channel: Channel, subject: object) -> None:
    def called(method: str, *arguments: object) -> object:
        return getattr(subject, method)(*arguments)

    with suppress(EOFError, ConnectionError):
        while True:
            _answer(channel, called)


def _answer(channel: Channel, called: Callable[..., object]) -> None:
    taken = channel.take()
    channel.put(_outcome(lambda: called(*channel.unpack(taken))))


def _outcome(call: Callable[[], object]) -> Packed:
    """The outcome of a call: a value, an error of Sandglass, or the name of any other error, whose trace is logged.

    This is the one place where every exception is caught: a runtime may raise what it likes.
    """
    try:
        return pack((VALUE, call()))
    except SandglassError as error:
        return pack((ERROR, error))
    except OSError as error:  # a full disk, say
        traceback.print_exc()
        return pack((ERROR, BackendError(str(error), "make room, or check the permissions")))
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        line = next(iter(str(error).strip().splitlines()), "")
        return pack((FAULT, f"{type(error).__name__}: {line}"))
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
