"""Files that are either whole or absent: temporary name in the same folder, flush, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandglass.errors import ArtifactError, InputError
from sandglass.reading import MOST_BYTES, open_file, read_text


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit flush it to disk and rename it to `path`.

    After a kill at any moment `path` is the old file or the new one. Raises ArtifactError when the folder cannot
    be written, or `path` is a folder itself.
    """
    if path.is_dir():
        raise ArtifactError(f"cannot write {path}: it is a folder", "name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}", "choose a folder that can be written") from error
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o666 & ~_umask())
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on a clean exit flush its files and rename it to `path`.

    An existing `path` is refused with ArtifactError unless `force`; it is then replaced only when the new folder is
    complete.
    """
    refuse_existing(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}", "choose a folder that can be written") from error
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        refuse_existing(path, force)
        if path.exists():
            old = temporary.with_suffix(".old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise ArtifactError when `path` exists and `force` is false."""
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists already", "choose another folder, or replace it with --force")


def sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with open_file(path, InputError) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, error: type[InputError], most: int = MOST_BYTES) -> Any:
    """Read a JSON file of at most `most` bytes.

    Raises `error` when it is missing, unreadable, not JSON, nested too deeply, or has a whole number of over 64 bits.
    """
    data = read_text(path, error, most=most)
    try:
        return json.loads(data, parse_int=_whole_number)
    except ValueError as cause:
        raise error(f"{path} is not JSON: {cause}", "give a complete JSON file") from cause
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply", "give a file that Sandglass or its tools wrote") from cause


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or (value := int(digits)).bit_length() > 64:
        raise ValueError(f"the number {digits[:20]}... has over 64 bits")
    return value


def _flush(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
