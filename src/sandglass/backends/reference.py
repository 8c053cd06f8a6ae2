"""The reference evaluator of the onnx package: it runs the graph in plain numpy, slowly but correctly."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from sandglass.backends import (
    DEFAULTS,
    FLOAT,
    Arrays,
    Backend,
    BuildNotes,
    Capabilities,
    LayerRun,
    OfferedSettings,
    Settings,
)
from sandglass.backends._batches import run_by_one
from sandglass.sources.source import Source

INSTALL = "part of sandglass"
PRECISIONS = ("fp32",)
PURPOSE: Final = "test"
SPEC = None
SETTINGS: OfferedSettings = {}
CAPABILITIES = Capabilities(dynamic_shapes=True)
Notes = BuildNotes


def available() -> str:
    """The version of onnx."""
    import onnx

    return str(onnx.__version__)


def build(source: Source, precision: str, folder: Path, plan: object) -> BuildNotes:
    """Copy the graph to `model.onnx`, with dynamic height and width if the source has several shapes."""
    from sandglass.graph.io import load_graph, save_graph
    from sandglass.graph.shapes import free_sides

    if source.shapes:
        free_sides(model := load_graph(source.graph))
        save_graph(model, folder / "model.onnx")
    else:
        shutil.copyfile(source.graph, folder / "model.onnx")
    return BuildNotes()


def open(
    folder: Path, notes: BuildNotes, threads: int, settings: Settings = DEFAULTS, callers: int = 1
) -> ReferenceSession:
    """A session of the copied graph. `threads`, `settings` and `callers` have no effect."""
    return ReferenceSession(folder / "model.onnx")


def layers(folder: Path, notes: BuildNotes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """The nodes of the graph, which the evaluator runs one by one in float, without times."""
    from sandglass.graph.io import load_graph
    from sandglass.graph.shapes import closed
    from sandglass.graph.work import layer_work

    model = closed(load_graph(folder / "model.onnx"), inputs)
    work = layer_work(model)
    runs = []
    for node in model.graph.node:
        macs, terms = work.get(node.name, (0, 0))
        runs.append(LayerRun(node.name, node.op_type, FLOAT, macs, terms=terms))
    return runs


class ReferenceSession:
    def __init__(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        self.evaluator = ReferenceEvaluator(str(path))

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, float32, batch first."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        outputs = self.evaluator.run(None, dict(inputs))
        return dict(zip(self.evaluator.output_names, map(np.asarray, outputs), strict=True))


if TYPE_CHECKING:
    from sandglass.backends import reference as this_module

    _: Backend[BuildNotes] = this_module
