"""Limits on the size of a config with its bases. They are far above any real config and stop a malicious one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandglass.core.errors import ConfigError

LONGEST = 100_000  # elements of a sequence, or letters of a text
MOST_BITS = 64  # bits of a whole number


@dataclass
class Budget:
    """The remaining files, bytes of source, and elements of values.

    mmdetection's largest config with its bases has 50,000 bytes.
    """

    files: int = 64
    source: int = 1 << 18
    elements: int = 1_000_000

    def open(self, path: Path) -> int:
        """Count one more file, and return the number of bytes that it may have."""
        self.files -= 1
        self._check(self.files, path, "the config has too many _base_ files")
        return self.source

    def read(self, count: int) -> None:
        """Count the bytes of a file."""
        self.source -= count

    def make(self, count: int, path: Path) -> None:
        """Count the elements of a new list or dictionary, or the letters of a new text."""
        self.elements -= count
        self._check(self.elements, path, "the values of the config are too large")

    def _check(self, left: int, path: Path, message: str) -> None:
        if left < 0:
            raise ConfigError(f"{path}: {message}", "give the config of a model")
