"""How much a config and its bases may take together: no file that describes a model is near, and a hostile one ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandglass.core.errors import ConfigError

LONGEST = 100_000  # elements of one sequence, letters of one text
MOST_BITS = 64  # of a whole number


@dataclass
class Budget:
    """What is left: files, their bytes (mmdetection's largest config with its bases has 50,000), and elements made."""

    files: int = 64
    source: int = 1 << 18
    elements: int = 1_000_000

    def open(self, path: Path) -> int:
        """Count one more file; the bytes that it may have."""
        self.files -= 1
        self._check(self.files, path, "it has too many _base_ files")
        return self.source

    def read(self, count: int) -> None:
        """Count the bytes of a file."""
        self.source -= count

    def make(self, count: int, path: Path) -> None:
        """Count elements of lists and dictionaries, and letters, that an expression makes."""
        self.elements -= count
        self._check(self.elements, path, "what it describes is too large")

    def _check(self, left: int, path: Path, message: str) -> None:
        if left < 0:
            raise ConfigError(f"{path}: {message}", "give the config of a model")
