"""OpenCV's dnn module: runs ONNX files in float32 on the processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sandglass.backends import (
    DEFAULTS,
    FLOAT,
    PROFILED_RUNS,
    Arrays,
    Backend,
    BuildNotes,
    Capabilities,
    LayerRun,
    OfferedSettings,
    Settings,
)
from sandglass.core.errors import BackendUnavailable, UnsupportedOperator
from sandglass.graph.io import load_graph, static_outputs
from sandglass.graph.work import layer_work
from sandglass.sources.source import Source

INSTALL = "pip install 'opencv-python-headless>=5'"
PRECISIONS = ("fp32",)
PURPOSE: Final = "deploy"
SPEC = None
SETTINGS: OfferedSettings = {}
CAPABILITIES = Capabilities()


def available() -> str:
    """The version of OpenCV."""
    try:
        import cv2
    except ImportError as error:
        raise BackendUnavailable("OpenCV is not installed", INSTALL) from error
    return str(cv2.__version__)


FILE = "model.onnx"


class Notes(BuildNotes, frozen=True):
    """The names of the graph's outputs."""

    outputs: tuple[str, ...]


def build(source: Source, precision: str, folder: Path, plan: object) -> Notes:
    """Copy the graph, which is OpenCV's own format too, and check that OpenCV reads it."""
    shutil.copyfile(source.graph, folder / FILE)
    read_net(folder)
    return Notes(outputs=tuple(static_outputs(load_graph(source.graph))))


def read_net(folder: Path) -> Any:
    """The network. Raises UnsupportedOperator where OpenCV cannot read it."""
    import cv2

    try:
        return cv2.dnn.readNetFromONNX(str(folder / FILE))
    except cv2.error as error:
        raise UnsupportedOperator(f"OpenCV cannot read the graph: {error}", "deploy to another backend") from error


def open(folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> OpencvSession:
    """A session with one network for each caller: a network of OpenCV serves one thread at a time."""
    import cv2

    cv2.setNumThreads(threads)  # of this process
    return OpencvSession([read_net(folder) for _ in range(callers)], notes.outputs)


class OpencvSession:
    def __init__(self, nets: list[Any], outputs: tuple[str, ...]) -> None:
        self.idle: SimpleQueue[Any] = SimpleQueue()
        self.outputs = outputs
        for net in nets:
            self.idle.put(net)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, for inputs by name; any number of images."""
        net = self.idle.get()
        try:
            return run_net(net, inputs, self.outputs)
        finally:
            self.idle.put(net)


def run_net(net: Any, inputs: Arrays, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Outputs by name; the arrays are the caller's own."""
    for name, array in inputs.items():
        net.setInput(array, name)
    return {name: array.copy() for name, array in zip(outputs, net.forward(list(outputs)), strict=True)}


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """The operations of the network in order, with the median times of several runs."""
    import cv2

    cv2.setNumThreads(threads)
    net, ticks = read_net(folder), []
    for _ in range(PROFILED_RUNS):
        run_net(net, inputs, notes.outputs)
        ticks.append(net.getPerfProfile()[1])
    times = 1e3 * np.median(ticks, axis=0) / cv2.getTickFrequency()  # milliseconds
    work = layer_work(load_graph(folder / FILE))
    runs = []
    for name, milliseconds in zip(net.getLayerNames(), times, strict=True):
        macs, terms = work.get(name, (0, 0))
        runs.append(LayerRun(name, net.getLayer(name).type, FLOAT, macs, float(milliseconds), terms=terms))
    return runs


if TYPE_CHECKING:
    import sandglass_opencv as this_module

    _: Backend[Notes] = this_module
