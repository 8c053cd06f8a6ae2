"""Targets (a backend and a precision), and the outcome of each after a deployment."""

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
        """Parse `BACKEND[:PRECISION]`; the default is the backend's first precision.

        Raises InputError with the known names for an unknown backend or precision.
        """
        name, _, precision = text.partition(":")
        known = load_backend(name).PRECISIONS
        precision = precision or known[0]
        if precision not in known:
            raise InputError(f"unknown precision {precision!r} for {name}", f"known: {', '.join(known)}")
        return Target(name, precision)

    @property
    def folder(self) -> str:
        """The name of the artifact's folder, for example `ncnn-int8`."""
        return f"{self.backend}-{self.precision}"

    def __str__(self) -> str:
        return f"{self.backend}:{self.precision}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one target: its artifact, its build kit for another host (a folder), or the error of its build."""

    target: Target
    artifact: Artifact | None = None
    error: SandglassError | None = None
    kit: Path | None = None
