"""What backends of vendors' accelerators share: a compiler on the command line, and a runtime in one file.

The runtime's file defines `version()` and `Model(path, inputs, outputs, device)`, whose `run` takes and gives one image
by name; it stands alone, so that a build kit can take it along.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sandglass.backends import FLOAT, Arrays, BuildNotes, LayerRun
from sandglass.backends._batches import run_by_one
from sandglass.core.errors import BackendError
from sandglass.core.process import run_program
from sandglass.sources.source import Source

Shapes = dict[str, tuple[int, ...]]


class Notes(BuildNotes, frozen=True):
    """Shapes of the graph's inputs and outputs, in its order, and the work of its layers.

    The work of a layer is its operator, its multiply-accumulates, and how many of them make one output.
    """

    inputs: Shapes
    outputs: Shapes
    work: dict[str, tuple[str, int, int]]


class Model(Protocol):
    """A compiled model on its device, as a vendor's file loads it."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one image by name. Raises RuntimeError for what the device refuses."""
        ...


class Runtime(Protocol):
    """A vendor's file: a module that stands alone."""

    def Model(self, path: Path, inputs: list[str], outputs: Shapes) -> Model:
        """The model in `path` on its device. Raises RuntimeError for what the device refuses."""
        ...


def graph_notes(source: Source) -> Notes:
    """The notes of the source's graph."""
    from sandglass.graph.io import load_graph, static_inputs, static_outputs
    from sandglass.graph.work import layer_work

    model = load_graph(source.graph)
    operators = {node.name: node.op_type for node in model.graph.node}
    work = {name: (operators[name], macs, terms) for name, (macs, terms) in layer_work(model).items()}
    return Notes(inputs=static_inputs(model), outputs=static_outputs(model), work=work)


def graph_layers(notes: Notes) -> list[LayerRun]:
    """The graph's layers, not timed: the compiler fuses them, and its runtime shows none of them."""
    return [
        LayerRun(name, operator, FLOAT, macs, terms=terms, note="compiled as a whole")
        for name, (operator, macs, terms) in notes.work.items()
    ]


def run_compiler(command: Sequence[str], folder: Path, model: str) -> None:
    """Run a compiler in `folder`; raises BackendError with its last line where it fails or writes no `model`."""
    result = run_program(command, folder)
    if result.returncode or not (folder / model).is_file():
        lines = (result.stdout + result.stderr).strip().splitlines()
        raise BackendError(f"{command[0]} failed: {lines[-1] if lines else result.returncode}", "see its log")


class DeviceSession:
    """A compiled model on its device; `runtime` is the vendor's file."""

    def __init__(self, runtime: Runtime, path: Path, notes: Notes) -> None:
        try:
            self.model = runtime.Model(path, list(notes.inputs), notes.outputs)
        except RuntimeError as error:
            raise BackendError(f"{path} cannot be loaded: {error}", "deploy the model again for this device") from error

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; the model takes one image at a time."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            return self.model.run(dict(inputs))
        except RuntimeError as error:
            raise BackendError(f"the device failed: {error}", "check the input's shape") from error
