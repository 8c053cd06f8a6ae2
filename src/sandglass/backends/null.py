"""A backend that computes nothing: outputs are zeros of the right shape. It shows the overhead around a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from sandglass.backends import (
    DEFAULTS,
    Arrays,
    Backend,
    BuildNotes,
    Capabilities,
    LayerRun,
    OfferedSettings,
    Settings,
)
from sandglass.sources.source import Source

INSTALL = "part of sandglass"
PRECISIONS = ("fp32",)
PURPOSE: Final = "test"
SPEC = None
SETTINGS: OfferedSettings = {}
CAPABILITIES = Capabilities(computes=False)

Shapes = dict[str, tuple[int, ...]]


class Notes(BuildNotes, frozen=True):
    """The shapes of the graph's outputs by name."""

    outputs: Shapes


def available() -> str:
    """Always available."""
    return "built in"


def build(source: Source, precision: str, folder: Path, plan: object) -> Notes:
    """Record the graph's output shapes."""
    from sandglass.graph.io import load_graph, static_outputs

    return Notes(outputs=static_outputs(load_graph(source.graph)))


def open(folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> NullSession:
    """A session that returns zeros."""
    return NullSession(notes.outputs)


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """An empty list, because nothing is executed."""
    return []


class NullSession:
    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Zeros by name, float32, one row for each row of the input."""
        batch = len(next(iter(inputs.values())))
        return {name: np.zeros((batch, *shape[1:]), np.float32) for name, shape in self.shapes.items()}


if TYPE_CHECKING:
    from sandglass.backends import null as this_module

    _: Backend[Notes] = this_module
