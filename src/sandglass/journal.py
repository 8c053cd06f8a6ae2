"""What a long evaluation has finished so far, one line a batch, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where Sandglass keeps what it can make again: SANDGLASS_CACHE, or the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SANDGLASS_CACHE") or base / "sandglass")


class Journal:
    """Predictions by sample index, appended as they are made and read back by the next run with the same key."""

    def __init__(self, key: dict[str, Any], folder: Path | None = None) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.path = (folder or cache_folder() / "evaluations") / f"{digest[:32]}.jsonl"
        self.done: dict[int, Any] = dict(self._read())
        self._drop_half_line()

    def append(self, predictions: dict[int, Any]) -> None:
        """Add finished samples; on disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps([index, value]) + "\n" for index, value in predictions.items())
        self.done.update(predictions)

    def close(self) -> None:
        """Forget the journal: its evaluation is complete."""
        self.path.unlink(missing_ok=True)

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []

    def _read(self) -> list[tuple[int, Any]]:
        return [tuple(json.loads(line)) for line in self._lines() if line.endswith(b"\n")]

    def _drop_half_line(self) -> None:
        """A kill in the middle of a write leaves a line without its end: cut it, so that the next one starts clean."""
        lines = self._lines()
        if lines and not lines[-1].endswith(b"\n"):
            os.truncate(self.path, sum(map(len, lines[:-1])))
