"""Targets, each a backend and a precision, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandglass.artifacts.artifact import Artifact
from sandglass.backends import load_backend
from sandglass.core.errors import InputError, SandglassError


@dataclass(frozen=True)
class Target:
    """A backend and a precision, written `ncnn:int8`."""

    backend: str
    precision: str

    @staticmethod
    def parse(text: str) -> Target:
        """Read `BACKEND[:PRECISION]`; raises InputError listing the known ones."""
        name, _, precision = text.partition(":")
        known = load_backend(name).PRECISIONS
        precision = precision or known[0]
        if precision not in known:
            raise InputError(f"unknown precision {precision!r} for {name}", f"known: {', '.join(known)}")
        return Target(name, precision)

    @property
    def folder(self) -> str:
        """Name of its artifact's folder."""
        return f"{self.backend}-{self.precision}"

    def __str__(self) -> str:
        return f"{self.backend}:{self.precision}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one target: its artifact, or a build kit for another host, or the error that stopped it."""

    target: Target
    artifact: Artifact | None = None
    error: SandglassError | None = None
    kit: Path | None = None
