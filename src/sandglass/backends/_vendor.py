"""Common parts of the backends for vendors' accelerators: a command-line compiler, and a runtime in one file.

The file of the runtime defines `version()` and `Model(path, inputs, outputs, device)`, whose `run` processes one image.
It does not import Sandglass, so that a build kit can contain a copy.
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
    """The shapes of the graph's inputs and outputs, in its order, and the work of its layers.

    The work of a layer is its operator, its multiply-accumulates, and those for one element of the output.
    """

    inputs: Shapes
    outputs: Shapes
    work: dict[str, tuple[str, int, int]]


class Model(Protocol):
    """A compiled model on its device, loaded by the file of a vendor's runtime."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one image by name, float32. Raises RuntimeError if the device fails."""
        ...


class Runtime(Protocol):
    """The file of a vendor's runtime, as a module."""

    def Model(self, path: Path, inputs: list[str], outputs: Shapes) -> Model:
        """Load the model in `path` on its device. Raises RuntimeError if the device fails."""
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
    """The graph's layers without times: the compiler fuses them, and its runtime does not report them."""
    return [
        LayerRun(name, operator, FLOAT, macs, terms=terms, note="compiled as a whole")
        for name, (operator, macs, terms) in notes.work.items()
    ]


def run_compiler(command: Sequence[str], folder: Path, model: str) -> None:
    """Run a compiler in `folder`. Raises BackendError with its last line if it fails or does not write `model`."""
    result = run_program(command, folder)
    if result.returncode or not (folder / model).is_file():
        lines = (result.stdout + result.stderr).strip().splitlines()
        reason = lines[-1] if lines else f"exit code {result.returncode}"
        raise BackendError(f"{command[0]} failed: {reason}", f"see the documentation of {command[0]}")


class DeviceSession:
    """A session of a compiled model on its device. `runtime` is the file of the vendor's runtime."""

    def __init__(self, runtime: Runtime, path: Path, notes: Notes) -> None:
        try:
            self.model = runtime.Model(path, list(notes.inputs), notes.outputs)
        except RuntimeError as error:
            raise BackendError(f"{path} cannot be loaded: {error}", "deploy the model again for this device") from error

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, float32, batch first. The model runs one image at a time."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            return self.model.run(dict(inputs))
        except RuntimeError as error:
            raise BackendError(f"the device failed: {error}", "check the shape of the input") from error
