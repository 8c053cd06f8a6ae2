"""ONNX Runtime on the CPU: the graph unchanged, or in QDQ form, which its optimizer converts to integer kernels.

Integers pass from layer to layer only if outputs are quantized too. So sums, products, concatenations, resizing and
functions computed by a table are quantized as well. The layer that produces the output is an exception: 256 levels are
too few for the peak of a heatmap. A 1x1 convolution or a matrix product there has int8 inputs and a float output; other
layers stay in float.

ONNX Runtime has no int8 kernel for transposed convolutions, and its depthwise ones take as long as a dense layer with
seventy times their work. They are replaced by convolutions, one for each phase of the stride, also in float artifacts.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

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
    all_settings,
    layer_note,
)
from sandglass.backends._batches import run_by_one
from sandglass.backends._parts import join_parts
from sandglass.core.errors import BackendError, BackendUnavailable
from sandglass.graph.layers import Facts
from sandglass.lowering.transposed_conv import MARK, ROUNDING, can_be_split, layer_of, split_late
from sandglass.quantization.plan import Plan
from sandglass.quantization.spec import Spec, pairs_products
from sandglass.sources.source import Source

if TYPE_CHECKING:
    import onnx
    import onnxruntime

INSTALL = "pip install onnxruntime"
PRECISIONS = ("fp32", "fp16", "int8")
PURPOSE: Final = "deploy"
CAPABILITIES = Capabilities(dynamic_shapes=True)
Notes = BuildNotes
MODEL = "model.onnx"
SETTINGS: OfferedSettings = {
    "streams": (1, 2, 4),
    "spinning": (True, False),  # waiting threads keep their cores busy: faster alone, slower next to other programs
    "optimization": ("all", "extended", "basic"),
    "execution": ("sequential", "parallel"),
}
INTEGER = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger")  # prefixes of the names of integer kernels
DECORATION = r"^InsertedPrecisionFreeCast_|(_token_\d+|_nchwc|_quant|/MatMulAddFusion)+$"  # additions to names
# Nodes that the optimizer fuses into the layer before them. The fused kernel may have the name of such a node.
ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "LeakyRelu", "HardSigmoid", "Tanh")
FUSED = (*ACTIVATIONS, "Add", "BatchNormalization")


def exception(layer: Facts) -> str:
    """The reason why a layer stays in float on ONNX Runtime; "" for int8."""
    if layer.makes_output and not (layer.pointwise or layer.layer.operator in ("Gemm", "MatMul")):
        return "it produces the output, which would be rounded to 256 levels"
    if layer.layer.operator == "ConvTranspose" and not can_be_split(layer):
        return "no int8 kernel for this kind of ConvTranspose"
    return ""


SPEC = Spec(
    ("Conv", "ConvTranspose", "Gemm", "MatMul"),
    asymmetric=True,
    saturates=pairs_products,
    between=("Add", "Concat", "HardSwish", "LeakyRelu", "MaxPool", "Mul", "Resize", "Sigmoid"),
    exception=exception,
)


def available() -> str:
    """The version of ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable("ONNX Runtime is not installed", INSTALL) from error
    return str(onnxruntime.__version__)


def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> BuildNotes:
    """Write `model.onnx`."""
    from sandglass.backends._decisions import layer_decisions
    from sandglass.graph.io import load_graph, save_graph
    from sandglass.graph.shapes import free_sides
    from sandglass.lowering.half_precision import float_layers, half_precision
    from sandglass.quantization.qdq import integers_flowing

    model = load_graph(source.graph)
    if source.shapes:
        free_sides(model)
    notes = BuildNotes()
    if plan is not None:
        spec = SPEC.on(source.processor)
        notes = BuildNotes(layers=layer_decisions(plan, spec, model))
        integers_flowing(model, plan, spec)
    if precision == "fp16":
        notes = BuildNotes(float_layers=tuple(float_layers(model, source.wide)))
        half_precision(model, source.wide)
    if plan is None:
        split_late(model)
    save_graph(model, folder / MODEL)
    return notes


def open(
    folder: Path, notes: BuildNotes, threads: int, settings: Settings = DEFAULTS, callers: int = 1
) -> RuntimeSession:
    """A session over `model.onnx`."""
    options = _options(threads, settings)
    return RuntimeSession(folder / MODEL, options, int(all_settings(SETTINGS, settings)["streams"]))


def _options(threads: int, settings: Settings) -> onnxruntime.SessionOptions:
    import onnxruntime

    from sandglass.graph.session import session_options

    values = all_settings(SETTINGS, settings)
    options = session_options(max(1, threads // int(values["streams"])))
    level = f"ORT_ENABLE_{str(values['optimization']).upper()}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if values["execution"] == "parallel":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(values["spinning"])))
    return options


def layers(folder: Path, notes: BuildNotes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """The kernels in the profile, with the median time of several runs. A kernel's operator shows its arithmetic."""
    from sandglass.graph.io import load_graph
    from sandglass.graph.shapes import closed
    from sandglass.graph.work import layer_work

    model = closed(load_graph(folder / MODEL), inputs)
    work, aliases, steps = layer_work(model), _aliases(model), _steps(model)
    times: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for kernel, operator, milliseconds in _profile(folder / MODEL, threads, inputs):
        times.setdefault(kernel, []).append(milliseconds)
        operators[kernel] = operator
    runs, layered = [], set(work)
    for kernel, calls in times.items():
        operator = operators[kernel]
        name = aliases.get(re.sub(DECORATION, "", kernel), kernel)
        arithmetic: ArithmeticName = INT8 if operator.startswith(INTEGER) else FLOAT
        layer = name in work and not operator.startswith(("Dequantize", "Quantize", "Transpose", "Reorder"))
        milliseconds = float(np.median(calls))
        if not layer:
            # An activation after a layer counts as part of it: it is fused in float, but not always in int8.
            follows = name in layered and operator.removeprefix("QLinear") in ACTIVATIONS
            runs.append(
                LayerRun(f"{name}{MARK}" if follows else kernel, operator, arithmetic, milliseconds=milliseconds)
            )
            continue
        (macs, terms), note = work.pop(name), layer_note(notes, layer_of(name), arithmetic)
        runs.append(LayerRun(name, operator, arithmetic, macs, milliseconds, note, steps.get(name, ()), terms))
    return join_parts(runs)


def _profile(path: Path, threads: int, inputs: Arrays) -> list[tuple[str, str, float]]:
    """The name, operator and milliseconds of each kernel call after the first run, in order."""
    options = _options(threads, DEFAULTS)
    options.enable_profiling = True
    with TemporaryDirectory(prefix="sandglass-") as scratch:
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = RuntimeSession(path, options).session
        for _ in range(1 + PROFILED_RUNS):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    calls = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return [
        (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], event["dur"] / 1e3)
        for event in calls[len(calls) // (1 + PROFILED_RUNS) :]
    ]


def _aliases(model: onnx.ModelProto) -> dict[str, str]:
    """Layers by the possible names of their kernels: of the node, of a node fused into it, or of its output."""
    from sandglass.graph.layers import OPERATORS

    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    aliases: dict[str, str] = {}
    for layer in (node for node in model.graph.node if node.op_type in OPERATORS):
        node = layer
        while node is layer or node.op_type in (*FUSED, *ROUNDING):
            aliases.setdefault(node.name, layer.name)
            aliases.setdefault(node.output[0], layer.name)
            following = readers.get(node.output[0], [])
            if len(following) != 1:
                break
            node = following[0]
    return aliases


def _steps(model: onnx.ModelProto) -> dict[str, tuple[float, ...]]:
    """The scales of each layer with integer weights: of its input, then of the channels of its weights."""
    from onnx import numpy_helper

    values = {entry.name: entry for entry in model.graph.initializer}
    scales = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    steps = {}
    for node in model.graph.node:
        if len(node.input) > 1 and all(name in scales for name in node.input[:2]):
            parts = [numpy_helper.to_array(values[scales[name]]).ravel() for name in node.input[:2]]
            steps[node.name] = tuple(float(value) for value in np.concatenate(parts))
    return steps


class RuntimeSession:
    """A session of the model at `path` with ONNX Runtime's `provider`, a name or a name with its options.

    With several `streams`, images of a batch run at the same time. Raises BackendError if the model cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        options: onnxruntime.SessionOptions,
        streams: int = 1,
        provider: str | tuple[str, dict[str, str]] = "CPUExecutionProvider",
    ) -> None:
        import onnxruntime

        from sandglass.graph.session import RUNTIME_ERRORS

        self.errors = RUNTIME_ERRORS
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except RUNTIME_ERRORS as error:
            raise BackendError(
                f"{path} cannot be loaded: {str(error).splitlines()[0]}", "deploy the model again"
            ) from error
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.pool = ThreadPoolExecutor(streams) if streams > 1 else None

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, float32, batch first. The graph runs one image at a time."""
        return run_by_one(self._one, inputs, self.pool)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            values = self.session.run(self.outputs, dict(inputs))
        except self.errors as error:
            raise BackendError(
                f"the input is invalid: {str(error).splitlines()[0]}", "check the shape of the input"
            ) from error
        return dict(zip(self.outputs, values, strict=True))


if TYPE_CHECKING:
    from sandglass.backends import onnxruntime as this_module

    _: Backend[BuildNotes] = this_module
