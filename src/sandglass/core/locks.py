"""Locks that the kernel releases when their owner ends, even by a kill.

A lock is `flock` on an open file or folder. So the files of a killed run are recognized: nobody holds their lock. The
process id and the host in a lock file serve only for the error message.
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
ELSEWHERE = "choose a writable folder"
# Errors of filesystems without locks, such as some network and user-space filesystems.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}


class Unlockable(OSError):
    """The filesystem does not support locks."""


def hold(path: Path) -> int | None:
    """Lock a file or folder, and return the descriptor that holds the lock.

    Returns None if another process holds the lock or if the path does not exist. Closing the descriptor releases the
    lock; so does the end of the process. Raises Unlockable if the filesystem does not support locks, and OSError for a
    link or an unreadable path.
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
    """Whether `path` still names the open file; another process may have removed it before it was locked."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` against other runs until the context ends. The folder is created if it does not exist.

    A folder that was created here and is empty at the end is removed. Raises BusyError with the owner if another run
    works in the folder, and ArtifactError if the folder is not writable.
    """
    existed = folder.is_dir()
    try:
        with _locked(folder / LOCK, folder):
            yield
    finally:
        if not existed:
            with suppress(OSError):  # it is not empty, or was never created
                folder.rmdir()


@contextmanager
def locked_file(path: Path, fix: str = ELSEWHERE) -> Iterator[None]:
    """Lock the file `path` against other writers until the context ends.

    Raises BusyError if another run writes the file, and ArtifactError with `fix` if it is not writable.
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
        # The lock file is removed while it is held: a process that opened it in between sees that it is gone, and
        # creates a new one.
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _acquired(path: Path, subject: Path) -> int | None:
    """Lock the file `path` and write the owner into it. None if the filesystem does not support locks."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another run removed the folder that it had created
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))
        try:
            descriptor = hold(path)
        except Unlockable:  # files are complete even without locks, because they are renamed into place
            return None
        if descriptor is not None:
            with suppress(OSError):  # on a full disk, the lock holds even without its owner's name
                path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
            return descriptor
        if path.exists():
            raise BusyError(f"{subject} is in use by another run: {_owner(path)}",
                            "wait until that run ends, or choose another folder")  # fmt: skip


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes()[:1000])
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # the owner is writing it at this moment
        return "an unknown process"
