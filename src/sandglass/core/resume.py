"""What a long evaluation has finished so far, one line a sample, so that a killed run can be resumed."""

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

NAME_A_CACHE = "set SANDGLASS_CACHE to a folder that can be written"


def cache_folder() -> Path:
    """Where Sandglass keeps what it can make again: SANDGLASS_CACHE, or the user's cache folder.

    Raises InputError where there is neither of them nor a home folder.
    """
    if own := os.environ.get("SANDGLASS_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandglass"
    except RuntimeError as error:  # neither HOME is set nor has the user an entry in the system's list
        raise InputError("there is no home folder to keep the cache in", NAME_A_CACHE) from error


ResultT = TypeVar("ResultT")


class Journal(Generic[ResultT]):
    """JSON-able results by sample index, appended one by one and read back by the next run with the same key.

    Each line has a checksum: one that was damaged is dropped, and its sample is done again. Entering the journal keeps
    other runs out of it; raises BusyError where one writes it already, ArtifactError where it cannot be written.
    """

    def __init__(self, key: Mapping[str, object], folder: Path | None = None) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.path = (folder or cache_folder() / "evaluations") / f"{digest[:32]}.jsonl"
        self.done: dict[int, ResultT] = self._read()
        self._entered = ExitStack()

    def __enter__(self) -> Journal[ResultT]:
        self._entered.enter_context(locked_file(self.path, NAME_A_CACHE))
        self.done = self._read()  # again: another run may have gone on with it until now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()

    def append(self, results: Mapping[int, ResultT]) -> None:
        """Add finished samples; handed to the system before this returns, so that a kill does not lose them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as stream:
            stream.writelines(_line(index, value) for index, value in results.items())
        self.done.update(results)

    def close(self) -> None:
        """Forget the journal: its evaluation is complete."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[int, ResultT]:
        """What is done; damaged lines are taken out of the file, so that the next one starts on a line of its own."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        entries = [_entry(line) for line in lines]
        done = cast(dict[int, ResultT], dict(entry for entry in entries if entry))
        if not all(entries):
            with atomic_file(self.path) as temporary:
                temporary.write_bytes(b"".join(_line(index, value) for index, value in done.items()))
        return done


def _line(index: int, value: object) -> bytes:
    """`CHECKSUM [INDEX, VALUE]`, the checksum as 8 hex digits."""
    text = json.dumps([index, value]).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> tuple[int, object] | None:
    """Index and value of a line; None where it was damaged, or cut short by a kill."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text[:-1]) or not text.endswith(b"\n"):
        return None
    index, value = json.loads(text)
    return index, value
