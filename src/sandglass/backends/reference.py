"""The graph run by onnx's own reference evaluator: slow, in plain numpy, and right."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.backends import Arrays, Source, run_by_one

INSTALL = "part of sandglass"
PRECISIONS = ("fp32",)
PURPOSE = "test"
SPEC = None


def available() -> str:
    """The version of onnx."""
    import onnx

    return str(onnx.__version__)


def build(source: Source, precision: str, folder: Path, plan: object) -> dict[str, Any]:
    """Copy the graph."""
    shutil.copyfile(source.graph, folder / "model.onnx")
    return {}


def open(folder: Path, notes: Mapping[str, Any], threads: int, streams: int = 1) -> ReferenceSession:
    """A session over the copied graph; `threads` has no effect."""
    return ReferenceSession(folder / "model.onnx")


class ReferenceSession:
    def __init__(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        self.evaluator = ReferenceEvaluator(str(path))

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        outputs = self.evaluator.run(None, dict(inputs))
        return dict(zip(self.evaluator.output_names, map(np.asarray, outputs), strict=True))
