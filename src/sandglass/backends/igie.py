"""Iluvatar accelerators with IGIE, the vendor's inference engine, which is based on TVM.

`igie-exec` compiles the graph to half precision with float32 inputs and outputs, and the vendor's TVM runs the engine.
If they are not installed, `make_kit` writes the files for a host that has them.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandglass.backends import (
    DEFAULTS,
    Arrays,
    Backend,
    Capabilities,
    LayerRun,
    OfferedSettings,
    Recipe,
    Session,
    Settings,
)
from sandglass.backends._vendor import DeviceSession, Notes, graph_layers, graph_notes, run_compiler
from sandglass.core.errors import BackendUnavailable
from sandglass.sources.source import Source

INSTALL = "install IGIE of the IXUCA SDK, which contains igie-exec and its own TVM"
PRECISIONS = ("fp16",)
PURPOSE: Final = "deploy"
SPEC = None
SETTINGS: OfferedSettings = {}
GRAPH, MODEL = "graph.onnx", "model.so"


def available() -> str:
    """The version of the vendor's TVM. Raises BackendUnavailable if it or the compiler is not installed."""
    if shutil.which("igie-exec") is None or importlib.util.find_spec("tvm") is None:
        raise BackendUnavailable("igie-exec is not installed; `deploy` writes a build kit instead", INSTALL)
    from sandglass.backends import _graph_executor

    return _graph_executor.version()


def build(source: Source, precision: str, folder: Path, plan: object) -> Notes:
    """Write `model.so`. Raises BackendError with the compiler's last line if it fails."""
    notes = graph_notes(source)
    shutil.copyfile(source.graph, folder / GRAPH)
    run_compiler(command(notes, precision), folder, MODEL)
    (folder / GRAPH).unlink()
    return notes


def make_kit(source: Source, precision: str, folder: Path) -> Recipe:
    """Write the graph."""
    notes = graph_notes(source)
    shutil.copyfile(source.graph, folder / GRAPH)
    return Recipe(
        command=shlex.join(command(notes, precision)),
        model=MODEL,
        runtime=Path(__file__).with_name("_graph_executor.py"),
        needs="an Iluvatar accelerator, and IGIE of the IXUCA SDK: `igie-exec` on PATH and its own `tvm`",
        inputs=notes.inputs,
        outputs=notes.outputs,
    )


def command(notes: Notes, precision: str) -> list[str]:
    """The compiler's command line."""
    inputs = [f"{name}:{','.join(map(str, shape))}" for name, shape in notes.inputs.items()]
    return [
        "igie-exec",
        "--model_path",
        GRAPH,
        "--input",
        *inputs,
        "--precision",
        precision,
        "--engine_path",
        MODEL,
        "--just_export",
        "True",
    ]


def open(folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> Session:
    """A session on the device. `threads`, `settings` and `callers` have no effect."""
    from sandglass.backends import _graph_executor

    return DeviceSession(_graph_executor, folder / MODEL, notes)


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """The graph's layers, without times."""
    return graph_layers(notes)


CAPABILITIES = Capabilities(make_kit=make_kit)

if TYPE_CHECKING:
    from sandglass.backends import igie as this_module

    _: Backend[Notes] = this_module
