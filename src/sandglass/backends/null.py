"""Computes nothing: outputs are zeros of the right shape. Shows what the loop around a runtime costs by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.backends import DEFAULTS, Arrays, LayerRun, Settings
from sandglass.sources.source import Source

INSTALL = "part of sandglass"
PRECISIONS = ("fp32",)
PURPOSE = "test"
SPEC = None
SETTINGS: Mapping[str, tuple[Any, ...]] = {}
COMPUTES = False  # its outputs are not compared with the graph


def available() -> str:
    """Always there."""
    return "built in"


def build(source: Source, precision: str, folder: Path, plan: object) -> dict[str, Any]:
    """Record the graph's output shapes."""
    from sandglass.graph.io import load_graph, static_outputs

    return {"outputs": {name: list(shape) for name, shape in static_outputs(load_graph(source.graph)).items()}}


def open(
    folder: Path, notes: Mapping[str, Any], threads: int, settings: Settings = DEFAULTS, callers: int = 1
) -> NullSession:
    """A session that answers with zeros."""
    return NullSession(notes["outputs"])


def layers(folder: Path, notes: Mapping[str, Any], threads: int, inputs: Arrays) -> list[LayerRun]:
    """Nothing is executed."""
    return []


class NullSession:
    def __init__(self, shapes: Mapping[str, list[int]]) -> None:
        self.shapes = shapes

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Zeros, one row for each row of the input."""
        batch = len(next(iter(inputs.values())))
        return {name: np.zeros((batch, *shape[1:]), np.float32) for name, shape in self.shapes.items()}
