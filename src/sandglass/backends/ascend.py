"""Accelerators of Huawei's Ascend line: compiled by ATC and run by `acl`, or run by ONNX Runtime's CANN provider.

Either rounds weights and activations to half precision and keeps float32 inputs and outputs. Where neither is here,
`kit` writes what a host needs that has the compiler.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.backends import DEFAULTS, Arrays, LayerRun, Recipe, Session, Settings, Source, run_by_one
from sandglass.backends._vendor import DeviceSession, compiled, graph_layers, graph_notes
from sandglass.errors import BackendError, BackendUnavailable, InputError

INSTALL = "install CANN, which has ATC and the Python package acl, or `pip install onnxruntime-cann`"
PRECISIONS = ("fp16",)
PURPOSE = "deploy"
SPEC = None
SETTINGS: Mapping[str, tuple[Any, ...]] = {}
SOC = "Ascend310P3"
GRAPH, MODEL = "graph.onnx", "model.om"
PROVIDER = "CANNExecutionProvider"


def available() -> str:
    """The version of what compiles and runs here; raises BackendUnavailable where nothing does."""
    import onnxruntime

    if _has_atc():
        from sandglass.backends import _acl

        return _acl.version()
    if PROVIDER in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} with CANN"
    raise BackendUnavailable(
        "neither ATC with acl nor ONNX Runtime with CANN is here; `deploy` makes a build kit", INSTALL
    )


def build(source: Source, precision: str, folder: Path, plan: object) -> dict[str, Any]:
    """Write `model.om`, or `graph.onnx` for ONNX Runtime.

    Raises InputError where `source.soc` is no name of a processor, and BackendError with ATC's last line.
    """
    notes = graph_notes(source)
    shutil.copyfile(source.graph, folder / GRAPH)
    if _has_atc():
        compiled(command(notes, source.soc), folder, MODEL)
        (folder / GRAPH).unlink()
    return notes


def kit(source: Source, precision: str, folder: Path) -> Recipe:
    """Write the graph; raises InputError where `source.soc` is no name of a processor."""
    notes = graph_notes(source)
    shutil.copyfile(source.graph, folder / GRAPH)
    return Recipe(
        command=shlex.join(command(notes, source.soc)),
        model=MODEL,
        runtime=Path(__file__).with_name("_acl.py"),
        needs=f"a processor {source.soc}, and CANN: `atc` on PATH and the Python package `acl` (CANN's set_env.sh)",
        notes=notes,
    )


def command(notes: Mapping[str, Any], soc: str) -> list[str]:
    """ATC's command line. Its image preprocessor (AIPP) is not used: inputs are normalized float32."""
    if not re.fullmatch(r"Ascend\w+", soc):
        raise InputError(
            f"the processor is {soc!r}, expected a name such as {SOC}",
            "give --soc NAME: Ascend, and the name that `npu-smi info` prints on that host",
        )
    shapes = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in notes["inputs"].items())
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


def open(
    folder: Path, notes: Mapping[str, Any], threads: int, settings: Settings = DEFAULTS, callers: int = 1
) -> Session:
    """A session on the device; `threads` have no effect."""
    if not (folder / MODEL).is_file():
        return ProviderSession(folder / GRAPH)
    from sandglass.backends import _acl

    return DeviceSession(_acl, folder / MODEL, notes)


def layers(folder: Path, notes: Mapping[str, Any], threads: int, inputs: Arrays) -> list[LayerRun]:
    """The graph's layers, without times."""
    return graph_layers(notes)


def _has_atc() -> bool:
    return shutil.which("atc") is not None and importlib.util.find_spec("acl") is not None


class ProviderSession:
    def __init__(self, path: Path) -> None:
        import onnxruntime

        from sandglass.graph.execute import RUNTIME_ERRORS

        self.errors, options = RUNTIME_ERRORS, onnxruntime.SessionOptions()
        # A layer that the device cannot run must not run beside it unseen, and be measured as if it had.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=[(PROVIDER, {"precision_mode": "force_fp16"})]
            )
        except RUNTIME_ERRORS as error:
            raise BackendError(f"{path} cannot be run: {str(error).splitlines()[0]}", "see CANN's log") from error
        self.outputs = [value.name for value in self.session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; the graph takes one image at a time."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            values = self.session.run(self.outputs, dict(inputs))
        except self.errors as error:
            raise BackendError(f"an input does not fit: {str(error).splitlines()[0]}", "check its shape") from error
        return dict(zip(self.outputs, values, strict=True))
