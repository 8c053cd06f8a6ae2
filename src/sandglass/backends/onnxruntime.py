"""ONNX Runtime on the CPU: the graph as it is, or in QDQ form, which its optimizer turns into integer kernels.

Integers flow from layer to layer only where outputs are rounded too, so sums, joins and resizing between them are
rounded as well. The layer that makes the output stays in float: 256 levels are too few for the peak of a heatmap.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.backends import Arrays, Source, run_by_one
from sandglass.errors import BackendUnavailable
from sandglass.quantize.layers import Facts
from sandglass.quantize.plan import Plan
from sandglass.quantize.spec import Spec, decide

INSTALL = "pip install onnxruntime"
PRECISIONS = ("fp32", "int8")
PURPOSE = "deploy"
MODEL = "model.onnx"


def exception(layer: Facts) -> str:
    """Why a layer stays in float on ONNX Runtime."""
    return "it makes the output, which would be rounded to 256 levels" if layer.makes_output else ""


SPEC = Spec(
    ("Conv", "Gemm", "MatMul"), asymmetric=True, between=("Add", "Concat", "MaxPool", "Resize"), exception=exception
)


def available() -> str:
    """The version of ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable("ONNX Runtime is not installed", INSTALL) from error
    return str(onnxruntime.__version__)


def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> dict[str, Any]:
    """Write `model.onnx`."""
    from sandglass.graph.load import load_graph, save_graph
    from sandglass.quantize.qdq import quantize_dequantize

    model = load_graph(source.graph)
    notes: dict[str, Any] = {}
    if plan is not None:
        notes["layers"] = {name: f"float: {why}" if why else "int8" for name, why in decide(plan, SPEC, model).items()}
        model = quantize_dequantize(model, plan, SPEC)
    save_graph(model, folder / MODEL)
    return notes


def open(folder: Path, notes: Mapping[str, Any], threads: int, streams: int = 1) -> RuntimeSession:
    """A session over `model.onnx`."""
    return RuntimeSession(folder / MODEL, threads)


class RuntimeSession:
    def __init__(self, path: Path, threads: int) -> None:
        from sandglass.graph.execute import GraphSession

        self.session = GraphSession(path, threads=threads)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; the graph takes one image at a time."""
        return run_by_one(self.session.run, inputs)
