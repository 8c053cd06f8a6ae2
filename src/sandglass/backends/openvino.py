"""OpenVINO on the CPU. For int8 it reads a QDQ graph, whose QuantizeLinear nodes become its own FakeQuantize.

Only the inputs of layers are quantized. A layer's sum stays in float registers, where the next operators are fused.

On x86 without VNNI, the kernels of dense layers add pairs of products in 16 bits with saturation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from sandglass.backends import (
    DEFAULTS,
    FLOAT,
    INT8,
    PROFILED_RUNS,
    ArithmeticName,
    Arrays,
    Backend,
    BuildNotes,
    Capabilities,
    LayerRun,
    OfferedSettings,
    Settings,
    SettingValue,
    all_settings,
    layer_note,
)
from sandglass.backends._batches import run_by_one
from sandglass.backends._parts import join_parts
from sandglass.core import host
from sandglass.core.distribution import install_command
from sandglass.core.errors import BackendError, BackendUnavailable, UnsupportedOperator
from sandglass.core.parallel import take_from
from sandglass.quantization.plan import Plan, TensorRange
from sandglass.quantization.spec import Arithmetic, Grid, Spec, pairs_products
from sandglass.sources.source import Source

if TYPE_CHECKING:
    import openvino

    from sandglass.backends._openvino_layers import ModelLayer

INSTALL = install_command("openvino")
PRECISIONS = ("fp32", "fp16", "int8")
PURPOSE: Final = "deploy"
CAPABILITIES = Capabilities(dynamic_shapes=True)
MIDDLE = 128  # the zero point of uint8 that becomes 0 in int8


def grid(tensor_range: TensorRange, of_layer: bool) -> Grid:
    """The integers of an activation, rounded as by OpenVINO's FakeQuantize.

    With a zero point of 128, kernels that support signed activations use int8 without a zero point. Otherwise a shift
    is added before rounding. If the layer before writes the integers (`of_layer`), the shift is a quotient of its own,
    because one instruction multiplies and adds.
    """
    from sandglass.quantization.qdq import byte_ends

    low, high, zero = byte_ends(tensor_range)
    factor = np.float32(255) / (high - low)
    if zero == MIDDLE and host.multiplies_signed():
        return Grid(factor, None, 0, -128, 127, of_layer)
    shift = -low * np.float32(255) / (high - low) if of_layer else -low * factor
    return Grid(factor, shift, zero, 0, 255, of_layer)


SPEC = Spec(
    ("Conv", "ConvTranspose", "Gemm", "MatMul"),
    asymmetric=True,
    saturates=pairs_products,
    arithmetic=Arithmetic(grid=grid),
)
MODEL = "model.xml"
SETTINGS: OfferedSettings = {
    "streams": (1, 2, 4),
    "hint": ("LATENCY", "THROUGHPUT"),
    "precision": ("f32", "bf16"),
    "pinning": (False, True),
    "hyper_threading": (True, False),
}
MOST_BYTES = 1 << 28  # bytes of weights in all copies of a model


class Notes(BuildNotes, frozen=True):
    """The graph's outputs in order, and the graph's names of layers by OpenVINO's names, if they differ."""

    outputs: list[str]
    names: dict[str, str] = {}


def available() -> str:
    """The version of OpenVINO."""
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable("OpenVINO is not installed", INSTALL) from error
    return str(openvino.__version__).split("-")[0]


def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> Notes:
    """Write `model.xml` and `model.bin`, with the weights of the graph in this precision.

    Raises UnsupportedOperator for an operator that OpenVINO lacks, and BackendError for another error of OpenVINO.
    """
    from sandglass.backends._decisions import layer_decisions
    from sandglass.graph.io import load_graph, save_graph
    from sandglass.graph.layers import find_layers
    from sandglass.graph.shapes import free_sides
    from sandglass.lowering.half_precision import float_layers, half_precision
    from sandglass.lowering.quantize_before_moves import round_early
    from sandglass.lowering.transposed_conv import split_depthwise
    from sandglass.quantization.qdq import quantize_dequantize

    model = load_graph(source.graph)
    if source.shapes:
        free_sides(model)
    outputs = {value.name for value in model.graph.output}
    # OpenVINO gives a layer that produces an output the name of this output.
    names = {layer.output: name for name, layer in find_layers(model).items() if layer.output in outputs}
    notes = Notes(outputs=[value.name for value in model.graph.output], names=names)
    with TemporaryDirectory(prefix="sandglass-") as scratch:
        if plan is not None:
            spec = SPEC.on(source.processor)
            notes = msgspec.structs.replace(notes, layers=layer_decisions(plan, spec, model))
            quantize_dequantize(model, plan, spec)
            round_early(model)
        if precision == "fp16":
            notes = msgspec.structs.replace(notes, float_layers=tuple(float_layers(model, source.wide)))
            half_precision(model, source.wide)
        # OpenVINO's depthwise transposed convolutions take three times as long and have no integer kernel.
        graph = Path(scratch) / "graph.onnx"
        split_depthwise(model)
        save_graph(model, graph)
        del model
        _convert(graph, folder / MODEL)
    return notes


def _convert(graph: Path, out: Path) -> None:
    import openvino
    from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure

    from sandglass.backends._openvino_outputs import transpose_outputs

    # The exceptions of the front end have no common base class except Exception.
    failures = (RuntimeError, GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure)
    try:
        openvino.save_model(transpose_outputs(openvino.convert_model(graph)), out, compress_to_fp16=False)
    except failures as error:
        line = next(
            (part for part in str(error).splitlines() if "not supported" in part or "No conversion" in part), ""
        )
        if line:
            raise UnsupportedOperator(f"OpenVINO lacks an operator of the graph: {line.strip()}",
                                      "choose another backend") from error  # fmt: skip
        raise BackendError(f"OpenVINO cannot read the graph: {str(error).strip().splitlines()[-1]}",
                           "choose another backend") from error  # fmt: skip


def open(folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> OpenVinoSession:
    """A session; by default, the arithmetic outside int8 layers is float32, and the model is tuned for latency."""
    # With one copy of the model for each caller, a call computes in the caller's thread. With one stream for each
    # caller, it computes in a thread of the stream, which is a tenth slower but needs the memory of one copy only.
    copies = callers if callers * (folder / MODEL).with_suffix(".bin").stat().st_size <= MOST_BYTES else 1
    sharing = callers // copies
    streams = max(sharing, int(all_settings(SETTINGS, settings)["streams"]))
    properties = _properties(threads * sharing, settings, streams, callers)
    return OpenVinoSession(folder / MODEL, notes.outputs, properties, streams, copies)


def _properties(threads: int, settings: Settings, streams: int = 1, callers: int = 1) -> dict[str, SettingValue]:
    values = all_settings(SETTINGS, settings)
    properties = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": values["hint"],
        "INFERENCE_PRECISION_HINT": values["precision"],
    }
    if streams > 1:
        properties["NUM_STREAMS"] = streams
    # OpenVINO chooses these by the machine. They are set only if they must change.
    if values["pinning"] or callers > 1:
        # Other work of a caller would wait for the core of a pinned stream while another core is idle.
        properties["ENABLE_CPU_PINNING"] = callers == 1
    if not values["hyper_threading"]:
        properties["ENABLE_HYPER_THREADING"] = False
    return properties


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """The nodes in the performance counters, with the mean time of several runs. A kernel's name has its arithmetic."""
    import openvino

    from sandglass.backends._openvino_layers import model_layers

    model = openvino.Core().read_model(folder / MODEL)
    model.reshape({name: list(array.shape) for name, array in inputs.items()})  # height and width may be dynamic
    properties = {**_properties(threads, DEFAULTS), "PERF_COUNT": True}
    request = openvino.Core().compile_model(model, "CPU", properties).create_infer_request()
    for _ in range(1 + PROFILED_RUNS):
        request.infer(dict(inputs))
    known = model_layers(model)
    runs = [_layer_run(entry, known, notes) for entry in request.profiling_info if _is_run(entry, known)]
    return join_parts(runs)


def _is_run(entry: openvino.ProfilingInfo, known: Mapping[str, ModelLayer]) -> bool:
    """Whether a node runs a kernel. OpenVINO reports kernels below a microsecond on average as not executed."""
    return entry.status == entry.Status.EXECUTED or (_node(entry) in known and entry.exec_type != "undef")


def _node(entry: openvino.ProfilingInfo) -> str:
    return str(entry.node_name).removesuffix("_original")


def _layer_run(entry: openvino.ProfilingInfo, known: Mapping[str, ModelLayer], notes: Notes) -> LayerRun:
    node = known.get(_node(entry))
    name = node.name if node else str(entry.node_name)
    name = notes.names.get(name, name)
    layer = node or known.get(name)
    macs, terms = (layer.macs, layer.terms) if layer else (0, 0)
    arithmetic: ArithmeticName = INT8 if entry.exec_type.lower().endswith(("i8", "u8")) else FLOAT
    note = layer_note(notes, name, arithmetic) if macs else ""
    milliseconds = entry.real_time.total_seconds() * 1e3
    steps = node.steps if node else ()
    return LayerRun(name, str(entry.node_type), arithmetic, macs, milliseconds, note, steps, terms)


class OpenVinoSession:
    """A session of the model at `path`. Its results are the graph's `outputs` in order; a tensor may have more names.

    Raises BackendError if OpenVINO cannot load the model.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        properties: Mapping[str, SettingValue],
        streams: int = 1,
        copies: int = 1,
    ) -> None:
        import openvino

        self.requests: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(copies):
            try:
                self.compiled = openvino.Core().compile_model(path, "CPU", dict(properties))
            except RuntimeError as error:
                raise BackendError(
                    f"OpenVINO cannot load {path}: {str(error).strip().splitlines()[-1]}", "deploy the model again"
                ) from error
            for _ in range(streams):
                self.requests.put(self.compiled.create_infer_request())
        self.pool = ThreadPoolExecutor(streams) if streams > 1 else None
        self.outputs = list(outputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, float32, batch first. The graph runs one image at a time."""
        return run_by_one(self._one, inputs, self.pool)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        request = take_from(self.requests, "a call of this session")
        try:
            arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            result = request.infer(arrays, share_inputs=True, share_outputs=True)
            # The results are copied before the request is returned.
            return {name: np.array(result[i]) for i, name in enumerate(self.outputs)}
        finally:
            self.requests.put(request)


if TYPE_CHECKING:
    from sandglass.backends import openvino as this_module

    _: Backend[Notes] = this_module
