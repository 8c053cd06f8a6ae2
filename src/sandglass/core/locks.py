"""Locks that the kernel releases when their owner ends, however it ends.

A lock is `flock` on an open file or folder. What a killed run leaves is therefore known to be stale: nobody holds it.
The process id and the host that a lock file names are there for the message alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandglass.core.errors import ArtifactError, BusyError

LOCK = ".sandglass.lock"
ELSEWHERE = "choose a folder that can be written"
# Filesystems without locks (some network and user-space ones) answer with one of these.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}


class Unlockable(OSError):
    """The filesystem has no locks."""


def hold(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder; None where another process holds it, or it is gone.

    Closing the descriptor releases the lock, and so does the end of the process. Raises Unlockable where the
    filesystem has no locks, OSError for a link and for what may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(descriptor)
        raise (Unlockable(*error.args) if error.errno in NO_LOCKS else error) from error
    os.close(descriptor)
    return None


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file still has its name: another process may have removed it before it was locked."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder`, which is made where it does not exist, while the context lives.

    Raises BusyError, which names the owner, where another run works in it, and ArtifactError where it cannot be
    written. A folder that was made for this and is empty at the end is removed.
    """
    existed = folder.is_dir()
    try:
        with _locked(folder / LOCK, folder):
            yield
    finally:
        if not existed:
            with suppress(OSError):  # it is not empty, or was never made
                folder.rmdir()


@contextmanager
def locked_file(path: Path, fix: str = ELSEWHERE) -> Iterator[None]:
    """Keep other runs from writing the file `path` while the context lives. Raises as `locked_folder` does.

    `fix` says what to do where it cannot be written.
    """
    with _locked(path.with_name(f".{path.name}.lock"), path, fix):
        yield


@contextmanager
def _locked(path: Path, subject: Path, fix: str = ELSEWHERE) -> Iterator[None]:
    try:
        descriptor = _acquired(path, subject)
    except OSError as error:
        raise ArtifactError(f"cannot write {subject}: {error.strerror}", fix) from error
    try:
        yield
    finally:
        # Removed while it is still held: a process that opened it meanwhile sees that it is gone, and makes a new one.
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _acquired(path: Path, subject: Path) -> int | None:
    """The held lock file, with its owner written into it; None where the filesystem has no locks."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another run has removed the folder that it made
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))
        try:
            descriptor = hold(path)
        except Unlockable:  # each file is whole all the same, by its rename
            return None
        if descriptor is not None:
            with suppress(OSError):  # on a full disk a lock without its owner's name is a lock too
                path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
            return descriptor
        if path.exists():
            raise BusyError(f"{subject} is in use by another run: {_owner(path)}",
                            "wait until that run ends, or choose another folder")  # fmt: skip


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes()[:1000])
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "its process is not known"
