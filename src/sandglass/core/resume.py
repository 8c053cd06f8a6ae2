"""The journal of a long evaluation: one line for each finished sample, so that a killed run can continue."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar, cast

from sandglass.core.errors import InputError
from sandglass.core.files import atomic_file
from sandglass.core.locks import locked_file

NAME_A_CACHE = "set SANDGLASS_CACHE to a writable folder"


def cache_folder() -> Path:
    """The folder for downloads, journals and logs: SANDGLASS_CACHE, or `sandglass` in the user's cache folder.

    Raises InputError if SANDGLASS_CACHE is not set and there is no home folder.
    """
    if own := os.environ.get("SANDGLASS_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandglass"
    except RuntimeError as error:  # HOME is not set, and the system does not list the user
        raise InputError("there is no home folder for the cache", NAME_A_CACHE) from error


ResultT = TypeVar("ResultT")


class Journal(Generic[ResultT]):
    """Results by sample index (JSON data), which the next run with the same key reads back.

    Each line has a checksum. A damaged line is dropped, and its sample is computed again. A `with` statement locks the
    journal; it raises BusyError if another run writes the journal, and ArtifactError if the journal is not writable.
    """

    def __init__(self, key: Mapping[str, object], folder: Path | None = None) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.path = (folder or cache_folder() / "evaluations") / f"{digest[:32]}.jsonl"
        self.done: dict[int, ResultT] = self._read()
        self._entered = ExitStack()

    def __enter__(self) -> Journal[ResultT]:
        self._entered.enter_context(locked_file(self.path, NAME_A_CACHE))
        self.done = self._read()  # read again, because another run may have added results before the lock
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()

    def append(self, results: Mapping[int, ResultT]) -> None:
        """Add finished samples. They are handed to the system before this returns, so a kill does not lose them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as stream:
            stream.writelines(_line(index, value) for index, value in results.items())
        self.done.update(results)

    def close(self) -> None:
        """Remove the journal, because its evaluation is complete."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[int, ResultT]:
        """The finished results. Damaged lines are removed from the file, so that the next line starts correctly."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        entries = [_entry(line) for line in lines]
        done = cast(dict[int, ResultT], dict(entry for entry in entries if entry))
        if not all(entries):
            with atomic_file(self.path) as temporary:
                temporary.write_bytes(b"".join(_line(index, value) for index, value in done.items()))
        return done


def _line(index: int, value: object) -> bytes:
    """A line `CHECKSUM [INDEX, VALUE]`, with the CRC-32 as 8 hex digits."""
    text = json.dumps([index, value]).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> tuple[int, object] | None:
    """The index and the value of a line; None if it is damaged or was cut off by a kill."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text[:-1]) or not text.endswith(b"\n"):
        return None
    index, value = json.loads(text)
    return index, value
