"""OpenVINO on the CPU. Its int8 comes from the same QDQ graph: it reads the rounding as its own FakeQuantize.

Only the inputs of layers are rounded: a layer's sum is kept in float registers, where what follows is fused into it.

On x86 without VNNI its kernels add pairs of products in saturating 16 bits. An artifact built on such a processor has
7-bit weights, which cannot overflow; one with more is refused there, because its outputs would be off by percents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from queue import LifoQueue
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sandglass import host
from sandglass.backends import Arrays, Source, run_by_one
from sandglass.errors import BackendError, BackendUnavailable, UnsupportedOperator
from sandglass.quantize.plan import Plan
from sandglass.quantize.spec import Spec, decide

INSTALL = "pip install 'sandglass[openvino]'"
PRECISIONS = ("fp32", "int8")
PURPOSE = "deploy"
SPEC = Spec(("Conv", "ConvTranspose", "Gemm", "MatMul"), asymmetric=True)
MODEL = "model.xml"
EXACT_BITS = 7  # 255 * 63 * 2 fits in 16 bits


def available() -> str:
    """The version of OpenVINO."""
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable("OpenVINO is not installed", INSTALL) from error
    return str(openvino.__version__).split("-")[0]


def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> dict[str, Any]:
    """Write `model.xml` and `model.bin`, weights uncompressed."""
    from sandglass.graph.load import load_graph, save_graph
    from sandglass.quantize.qdq import quantize_dequantize

    notes: dict[str, Any] = {}
    with TemporaryDirectory(prefix="sandglass-") as scratch:
        graph = source.graph
        if plan is not None:
            model = load_graph(graph)
            spec = replace(SPEC, weight_bits=EXACT_BITS) if host.sums_saturate() else SPEC
            reasons = decide(plan, spec, model)
            notes["layers"] = {name: f"float: {why}" if why else "int8" for name, why in reasons.items()}
            bits = [plan.layers[name].weight_bits for name, why in reasons.items() if not why]
            notes["weight_bits"] = min(spec.weight_bits, max(bits, default=EXACT_BITS))
            graph = Path(scratch) / "qdq.onnx"
            save_graph(quantize_dequantize(model, plan, spec), graph)
        _convert(graph, folder / MODEL)
    return notes


def _convert(graph: Path, out: Path) -> None:
    import openvino
    from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure

    # The front end's own exceptions derive from Exception alone.
    failures = (RuntimeError, GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure)
    try:
        openvino.save_model(openvino.convert_model(graph), out, compress_to_fp16=False)
    except failures as error:
        line = next(
            (part for part in str(error).splitlines() if "not supported" in part or "No conversion" in part), ""
        )
        if line:
            raise UnsupportedOperator(f"OpenVINO lacks an operator of the graph: {line.strip()}",
                                      "choose another backend") from error  # fmt: skip
        raise BackendError(f"OpenVINO cannot read the graph: {str(error).strip().splitlines()[-1]}",
                           "choose another backend") from error  # fmt: skip


def open(folder: Path, notes: Mapping[str, Any], threads: int, streams: int = 1) -> OpenVinoSession:
    """A compiled model with float32 arithmetic outside int8 layers, tuned for latency."""
    if notes.get("weight_bits", 0) > EXACT_BITS and host.sums_saturate():
        raise BackendError(
            f"{folder} has 8-bit weights, and sums of their products overflow on this processor, which lacks VNNI",
            "deploy the model on this processor: its weights then have 7 bits",
        )
    return OpenVinoSession(folder / MODEL, threads, streams)


class OpenVinoSession:
    def __init__(self, path: Path, threads: int, streams: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self.compiled = openvino.Core().compile_model(path, "CPU", settings)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load {path}: {str(error).strip().splitlines()[-1]}") from error
        self.requests: LifoQueue[Any] = LifoQueue()
        for _ in range(streams):
            self.requests.put(self.compiled.create_infer_request())
        self.outputs = [port.any_name for port in self.compiled.outputs]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; the graph takes one image at a time."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        request = self.requests.get()
        try:
            result = request.infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
            return {name: np.array(result[name]) for name in self.outputs}
        finally:
            self.requests.put(request)
