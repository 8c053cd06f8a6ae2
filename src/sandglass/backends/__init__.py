"""The seam of runtimes: one file is one backend. A backend never imports a task.

Each file defines, at module level:

    INSTALL      the command that installs what it needs
    PRECISIONS   what it can write, e.g. ("fp32", "int8")
    PURPOSE      "deploy" for a runtime that users ship, "test" for one that only serves development
    SPEC         quantize.spec.Spec of its integer arithmetic, or None
    available()  -> version; raises BackendUnavailable with the command to type
    build(source, precision, folder, plan) -> notes
                 writes its files into `folder`; the JSON-able notes are kept in the artifact's manifest
    open(folder, notes, threads, streams) -> Session
                 `streams` threads may call its `run` at once, each call computing on `threads` cores
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sandglass.files import atomic_folder

if TYPE_CHECKING:
    from sandglass.card import Card
    from sandglass.quantize.plan import Plan
    from sandglass.quantize.spec import Spec

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """What every artifact is made from: the card, the fp32 graph, and the weights where the model is a zoo one.

    The graph lies in a folder that is Sandglass's own while artifacts are made.
    """

    card: Card
    graph: Path
    weights: Path | None = None

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder `name` beside the graph, filled by `make` the first time that an artifact needs it."""
        folder = self.graph.parent / name
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                make(temporary)
        return folder


class Session(Protocol):
    """A loaded artifact."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by the graph's names, float32, batch first, for inputs by the graph's names, NCHW float32."""
        ...


class Backend(Protocol):
    """What a file in this folder defines (see the module docstring)."""

    INSTALL: str
    PRECISIONS: tuple[str, ...]
    PURPOSE: str
    SPEC: Spec | None

    @staticmethod
    def available() -> str: ...

    @staticmethod
    def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> dict[str, Any]: ...

    @staticmethod
    def open(folder: Path, notes: Mapping[str, Any], threads: int, streams: int = 1) -> Session: ...


def run_by_one(run: Callable[[Arrays], dict[str, np.ndarray]], inputs: Arrays) -> dict[str, np.ndarray]:
    """Run a batch through a runtime that takes one image at a time, and stack the outputs."""
    count = len(next(iter(inputs.values())))
    parts = [run({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(count)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
