"""Atomic files and folders: they are written under a temporary name, flushed to disk, and renamed."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sandglass.core.errors import ArtifactError, InputError
from sandglass.core.locks import Unlockable, hold
from sandglass.core.reading import MOST_BYTES, open_file, read_text

RUN = "sandglass-run-"  # prefix of folders with the temporary files of a run
PART, OLD = "-sandglass.part", "-sandglass.old"  # suffixes of a file that is not finished, and of one to be replaced
MOST_LEVELS = 64  # nested lists and dictionaries in JSON; Sandglass itself writes 6
WRITTEN = "give a file that Sandglass or its tools wrote"
LONGEST_NAME = 200  # bytes; filesystems allow 255, and temporary names are longer than the final name


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path`; without an exception, flush it to disk and rename it to `path`.

    After a kill at any moment, `path` is the old file or the new one. The next run that writes `path` removes the
    temporary file of a killed run. Raises ArtifactError if the folder is not writable, or if `path` is a folder.
    """
    if path.is_dir():
        raise ArtifactError(f"cannot write {path}: it is a folder", "give the path of a file")
    with _temporary(path, _new_file) as temporary:
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        _flush(temporary)
        temporary.replace(path)


@contextmanager
def atomic_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; without an exception, flush its files and rename it to `path`.

    Raises ArtifactError if `path` exists and `force` is false. With `force`, an existing folder is replaced when the
    new one is complete.
    """
    refuse_existing(path, force)
    with _temporary(path, tempfile.mkdtemp) as temporary:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        refuse_existing(path, force)
        old = temporary.with_name(temporary.name.removesuffix(PART) + OLD)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        _remove(old)


@contextmanager
def _temporary(path: Path, make: Callable[..., str]) -> Iterator[Path]:
    """A new file or folder next to `path`, removed at the end. A lock keeps `sweep` of other runs from removing it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        temporary, descriptor = _owned(lambda: Path(make(prefix=f".{path.name}.", suffix=PART, dir=path.parent)))
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}", "choose a writable folder") from error
    try:
        yield temporary
    finally:
        _remove(temporary)
        if descriptor is not None:
            os.close(descriptor)


def _new_file(suffix: str, prefix: str, dir: Path) -> str:
    handle, name = tempfile.mkstemp(suffix, prefix, dir)
    os.close(handle)
    return name


def _owned(make: Callable[[], Path]) -> tuple[Path, int | None]:
    """The path that `make` creates, and the descriptor that holds its lock; None if there are no locks."""
    while True:
        path = make()
        try:
            if (descriptor := hold(path)) is not None:
                return path, descriptor
        except Unlockable:
            return path, None


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files of killed runs in `folder`: all of them, or only those of the file `name`.

    Files that a running process holds are left alone. A folder that was renamed to make way for a new one is renamed
    back if the new one never appeared.
    """
    start = f".{glob.escape(name)}." if name else ".*."
    for end in (PART, OLD):
        for path in folder.glob(f"{start}*{end}"):
            with suppress(OSError), _held(path):
                final = path.with_name(path.name[1:].rpartition(".")[0].rpartition(".")[0])
                if end == OLD and not final.exists():
                    path.rename(final)
                _remove(path)


@contextmanager
def run_folder() -> Iterator[None]:
    """A folder for all temporary files of this process and its child processes, removed at the end.

    Folders of killed runs are removed first. If no temporary folder is writable, nothing is created.
    """
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    try:
        parent = Path(tempfile.gettempdir())
        for left in parent.glob(f"{RUN}*"):
            with suppress(OSError), _held(left):
                _remove(left)
        folder, descriptor = _owned(lambda: Path(tempfile.mkdtemp(prefix=RUN, dir=parent)))
    except OSError:  # the code that needs a temporary file reports the error
        yield
        return
    try:
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable
        _remove(folder)
        if descriptor is not None:
            os.close(descriptor)


def temporary_folder() -> Path:
    """The system's folder for temporary files. Files in it stay after the run, unlike those in `run_folder`."""
    folder = Path(tempfile.gettempdir())
    return folder.parent if folder.name.startswith(RUN) else folder


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Lock the file of a killed run while it is removed. Raises OSError if another process holds the lock."""
    descriptor = hold(path)
    if descriptor is None:
        raise BlockingIOError
    try:
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_plain_name(name: str) -> bool:
    """Whether `name` is safe as a file name: no path, not hidden, no unprintable characters, not too long."""
    plain = name.isprintable() and not name.startswith(".") and not set("/\\:") & set(name)
    return plain and 0 < len(os.fsencode(name)) <= LONGEST_NAME


def refuse_existing(path: Path, force: bool) -> None:
    """Raise ArtifactError if `path` exists and `force` is false."""
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists already", "choose another folder, or use --force to replace it")


def sha256(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits. Raises InputError if the file cannot be read."""
    digest = hashlib.sha256()
    with open_file(path, InputError) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, error: type[InputError], most: int = MOST_BYTES) -> Any:
    """Read a JSON file of at most `most` bytes.

    Raises `error` if the file is missing, unreadable, not JSON, nested too deeply, or has a whole number of more than
    64 bits.
    """
    data = read_text(path, error, most=most)
    try:
        value = json.loads(data, parse_int=_whole_number)
    except ValueError as cause:
        raise error(f"{path} is not JSON: {cause}", "give a complete JSON file") from cause
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply", WRITTEN) from cause
    if len(data) <= MOST_BYTES and _is_deep(value):
        raise error(f"{path} is nested too deeply", WRITTEN)
    return value


def _is_deep(value: object) -> bool:
    """Whether lists and dictionaries are nested more than MOST_LEVELS deep, too deep to be shown in a message."""
    level: list[list[object] | dict[str, object]] = [[value]]
    for _ in range(MOST_LEVELS):
        parts = (part for owner in level for part in (owner.values() if isinstance(owner, dict) else owner))
        level = [part for part in parts if isinstance(part, list | dict)]
        if not level:
            return False
    return True


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or (value := int(digits)).bit_length() > 64:
        raise ValueError(f"the number {digits[:20]}... has more than 64 bits")
    return value


def _flush(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
