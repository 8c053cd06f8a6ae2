"""Huawei Ascend accelerators: compiled with ATC and run with `acl`, or run with ONNX Runtime's CANN provider.

Both use half precision for weights and activations, with float32 inputs and outputs. If neither is installed,
`make_kit` writes the files for a host that has the compiler.
"""

from __future__ import annotations

import importlib.util
import re
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
from sandglass.core.errors import BackendUnavailable, InputError
from sandglass.sources.source import Source

INSTALL = "install CANN, which has ATC and the Python package acl, or `pip install onnxruntime-cann`"
PRECISIONS = ("fp16",)
PURPOSE: Final = "deploy"
SPEC = None
SETTINGS: OfferedSettings = {}
EXAMPLE_SOC = "Ascend310P3"
GRAPH, MODEL = "graph.onnx", "model.om"
PROVIDER = "CANNExecutionProvider"


def available() -> str:
    """The version of `acl` or of ONNX Runtime with CANN. Raises BackendUnavailable if neither is installed."""
    import onnxruntime

    if _has_atc():
        from sandglass.backends import _acl

        return _acl.version()
    if PROVIDER in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} with CANN"
    raise BackendUnavailable(
        "neither ATC with acl nor ONNX Runtime with CANN is installed; `deploy` writes a build kit instead", INSTALL
    )


def build(source: Source, precision: str, folder: Path, plan: object) -> Notes:
    """Write `model.om`, or `graph.onnx` for ONNX Runtime.

    Raises InputError if `source.soc` is not the name of a processor, and BackendError with ATC's last line if it fails.
    """
    notes = graph_notes(source)
    shutil.copyfile(source.graph, folder / GRAPH)
    if _has_atc():
        run_compiler(command(notes, source.soc), folder, MODEL)
        (folder / GRAPH).unlink()
    return notes


def make_kit(source: Source, precision: str, folder: Path) -> Recipe:
    """Write the graph. Raises InputError if `source.soc` is not the name of a processor."""
    notes = graph_notes(source)
    shutil.copyfile(source.graph, folder / GRAPH)
    return Recipe(
        command=shlex.join(command(notes, source.soc)),
        model=MODEL,
        runtime=Path(__file__).with_name("_acl.py"),
        needs=f"a processor {source.soc}, and CANN: `atc` on PATH and the Python package `acl` (CANN's set_env.sh)",
        inputs=notes.inputs,
        outputs=notes.outputs,
    )


def command(notes: Notes, soc: str) -> list[str]:
    """ATC's command line. Its image preprocessor (AIPP) is not used: inputs are normalized float32."""
    if not re.fullmatch(r"Ascend\w+", soc):
        raise InputError(
            f"ATC needs the name of a processor such as {EXAMPLE_SOC}, but --soc is {soc or 'missing'}",
            "give --soc AscendNAME, with the name that `npu-smi info` prints on the host",
        )
    shapes = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in notes.inputs.items())
    return [
        "atc",
        "--framework=5",  # ONNX
        f"--model={GRAPH}",
        f"--output={MODEL.removesuffix('.om')}",
        f"--soc_version={soc}",
        "--input_format=NCHW",
        f"--input_shape={shapes}",
        "--precision_mode=force_fp16",
        "--output_type=FP32",
    ]


def open(folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> Session:
    """A session on the device. `threads`, `settings` and `callers` have no effect."""
    if not (folder / MODEL).is_file():
        return _provided(folder / GRAPH)
    from sandglass.backends import _acl

    return DeviceSession(_acl, folder / MODEL, notes)


def _provided(path: Path) -> Session:
    """A session of ONNX Runtime with CANN. It fails if CANN lacks a layer, which would otherwise run on the CPU."""
    from sandglass.backends.onnxruntime import RuntimeSession
    from sandglass.graph.session import session_options

    options = session_options(1)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return RuntimeSession(path, options, provider=(PROVIDER, {"precision_mode": "force_fp16"}))


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """The graph's layers, without times."""
    return graph_layers(notes)


def _has_atc() -> bool:
    return shutil.which("atc") is not None and importlib.util.find_spec("acl") is not None


CAPABILITIES = Capabilities(compiles_for_soc=EXAMPLE_SOC, make_kit=make_kit)

if TYPE_CHECKING:
    from sandglass.backends import ascend as this_module

    _: Backend[Notes] = this_module
