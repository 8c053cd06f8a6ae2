"""ncnn on the CPU. pnnx converts the graph to `.param` and `.bin`; the int8 files are written here from the plan.

Depthwise layers stay in float: their int8 kernels are not faster and lose most of the accuracy. The layer that produces
the output stays in float too. A 3x3 layer of stride 1 has 6-bit weights and runs with Winograd, or has 8-bit weights
without Winograd, depending on `weight_bits` in the plan (default: 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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
    Capabilities,
    LayerRun,
    OfferedSettings,
    Settings,
    all_settings,
    layer_note,
)
from sandglass.backends._ncnn_convert import BIN, INSTALL, PARAM, convert, pnnx, refuse_unknown
from sandglass.backends._ncnn_session import NcnnSession, Notes
from sandglass.core.errors import BackendError, BackendUnavailable, FormatError
from sandglass.graph.layers import Facts
from sandglass.quantization.plan import Plan
from sandglass.quantization.spec import Arithmetic, Spec
from sandglass.sources.source import Source

if TYPE_CHECKING:
    import ncnn
    import onnx

    from sandglass.formats.ncnn_param import Layer, Param

PRECISIONS = ("fp32", "fp16", "int8")
PURPOSE: Final = "deploy"
CAPABILITIES = Capabilities(dynamic_shapes=True)
TABLE = "model.table"
SETTINGS: OfferedSettings = {
    "winograd": ("all", "f23", "f43", "f63", "off"),
    "sgemm": (True, False),
    "packing": (True, False),
    "storage": ("float32", "float16", "bfloat16"),
    "blocktime": (20, 0),  # milliseconds that an idle thread spins before it sleeps
}


def exception(layer: Facts) -> str:
    """The reason why a layer stays in float on ncnn; "" for int8."""
    if layer.depthwise:
        return "depthwise: int8 is not faster in ncnn and costs accuracy"
    if layer.group > 1:
        return "grouped: ncnn has no fast int8 kernel"
    return "it produces the output" if layer.makes_output else ""


def bits(layer: Facts) -> tuple[int, ...]:
    """The possible bits of a layer's weights: 8, and 6 for a layer whose Winograd sums then fit into 16 bits."""
    plain = layer.layer.operator == "Conv" and layer.shape[2:] == (3, 3) and layer.group == 1
    return (8, 6) if plain and set(layer.stride) == set(layer.dilation) == {1} else (8,)


SPEC = Spec(
    ("Conv", "Gemm", "MatMul"),
    asymmetric=False,
    timed_converting=True,  # `layers` reads each result in float, even if the layer passes on integers
    pads=True,
    exception=exception,
    bits=bits,
    arithmetic=Arithmetic(fused_sums=True, half_away=True, ordered_taps=True),
)


def available() -> str:
    """The version of ncnn. Raises BackendUnavailable if ncnn or pnnx is not installed."""
    try:
        import ncnn
    except ImportError as error:
        raise BackendUnavailable("ncnn is not installed", INSTALL) from error
    if pnnx() is None:
        raise BackendUnavailable("pnnx is not installed", INSTALL)
    return str(ncnn.__version__)


def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> Notes:
    """Write `model.param` and `model.bin`, and for int8 also `model.table`, the scales in the format of ncnn's tools.

    Raises UnsupportedOperator with the name of an operator that ncnn lacks.
    """
    from sandglass.backends._decisions import layer_decisions
    from sandglass.backends._ncnn_scales import match_layers, plan_scales, weight_digests
    from sandglass.formats import ncnn_bin, ncnn_int8
    from sandglass.formats.ncnn_table import table_text
    from sandglass.graph.edit import drop_weights
    from sandglass.graph.io import load_graph, static_inputs, static_outputs
    from sandglass.lowering.half_precision import float_layers

    model = load_graph(source.graph)
    inputs = {name: f"in{i}" for i, name in enumerate(static_inputs(model))}
    outputs = {
        name: (f"out{i}", (*shape[:2], -1, -1) if source.shapes and len(shape) == 4 else shape)
        for i, (name, shape) in enumerate(static_outputs(model).items())
    }
    digests = weight_digests(model)
    drop_weights(model)  # saves memory: the graph's weights and the converted ones are never in memory together
    param, parts = _converted(source, model)
    places = match_layers(param, parts, digests)
    names = {param.layers[i].name: name for name, i in places.items()}
    notes = Notes(inputs=inputs, outputs=outputs, names=names)
    if plan is not None:
        scales, decisions = plan_scales(param, parts, plan, layer_decisions(plan, SPEC, model), places)
        notes = msgspec.structs.replace(notes, layers=decisions)
        ncnn_int8.quantize(param, parts, scales)
        (folder / TABLE).write_text(table_text(scales), encoding="utf-8")
    if precision == "fp16":
        parts = [ncnn_bin.halved(layer, blobs) for layer, blobs in zip(param.layers, parts, strict=True)]
        notes = msgspec.structs.replace(
            notes,
            storage="float32" if source.wide else "float16",
            float_layers=tuple(float_layers(model, source.wide)),
        )
    (folder / PARAM).write_text(param.text(), encoding="utf-8")
    ncnn_bin.write_bin(parts, folder / BIN)
    return notes


def _converted(source: Source, model: onnx.ModelProto) -> tuple[Param, list[list[memoryview]]]:
    """The source's graph `model` as ncnn layers, and the float32 weights of each layer as blobs.

    Raises UnsupportedOperator with the name of an operator that ncnn lacks.
    """
    from sandglass.backends._ncnn_lowering import restore
    from sandglass.formats import ncnn_bin, ncnn_param

    folder = source.once("pnnx", lambda folder: convert(source.graph, folder, bool(source.shapes)))
    try:
        param = ncnn_param.read_param(folder / PARAM)
        restore(param, model)
        refuse_unknown(param, folder)
        return param, ncnn_bin.read_bin(param, folder / BIN)
    except FormatError as error:
        raise BackendError(f"the files that pnnx wrote cannot be read: {error.message}",
                           "report the model") from error  # fmt: skip


def open(folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1) -> NcnnSession:
    """A session; the default arithmetic outside int8 layers is float32.

    Raises FormatError if the two files do not fit together.
    """
    from sandglass.formats import ncnn_bin, ncnn_param

    # ncnn accepts any bytes as weights and crashes with some. This check reads only lengths.
    try:
        ncnn_bin.read_bin(ncnn_param.read_param(folder / PARAM), folder / BIN)
    except FormatError as error:
        raise FormatError(error.message, "deploy the model again") from error
    values = all_settings(SETTINGS, {"storage": notes.storage or "float32", **settings})
    return NcnnSession(folder, notes, threads, values)


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """Every layer of the `.param`: its scale term says whether it runs in int8.

    ncnn has no timer in Python: each layer is timed by asking for its result after those before it. What usually works
    in place then copies its input first.
    """
    from sandglass.formats import ncnn_bin, ncnn_param

    session = open(folder, notes, threads)
    param = ncnn_param.read_param(folder / PARAM)
    parts = ncnn_bin.read_bin(param, folder / BIN)
    times: list[list[float]] = []
    for _ in range(1 + PROFILED_RUNS):
        results, seconds = session.walk(inputs, [layer.tops[-1] for layer in param.layers])
        times.append(seconds)
    medians = np.median(times[1:], axis=0) * 1e3
    mats = {blob: mat for layer, mat in zip(param.layers, results, strict=True) for blob in layer.tops}
    return [
        _layer_run(layer, blobs, notes, mats, float(milliseconds))
        for layer, blobs, milliseconds in zip(param.layers, parts, medians, strict=True)
        if layer.kind not in ("Input", "Split")  # these compute nothing
    ]


def _layer_run(
    layer: Layer, blobs: list[memoryview], notes: Notes, mats: Mapping[str, ncnn.Mat], milliseconds: float
) -> LayerRun:
    """The report on one layer. `blobs` are its weights, and `mats` the results of all layers by blob."""
    from sandglass.formats import ncnn_int8

    integer = layer.kind in ncnn_int8.KINDS and layer.integer(ncnn_int8.SCALE_TERM, 0) > 0
    name = notes.names.get(layer.name, layer.name)
    arithmetic: ArithmeticName = INT8 if integer else FLOAT
    macs, result = _macs(layer, mats), mats[layer.tops[0]]
    return LayerRun(
        name,
        layer.kind,
        arithmetic,
        macs,
        milliseconds,
        layer_note(notes, name, arithmetic),
        _steps(layer, blobs) if integer else (),
        terms=macs // max(1, result.w * result.h * result.c * result.elempack),
    )


def _macs(layer: Layer, mats: Mapping[str, ncnn.Mat]) -> int:
    """The multiply-accumulates of a layer: each weight counts once for each pixel of the output.

    For a transposed convolution, it counts once for each pixel of the input.
    """
    if layer.kind == "InnerProduct":
        return layer.integer(2, 0)
    if not layer.kind.startswith(("Convolution", "Deconvolution")):
        return 0
    mat = mats[layer.tops[0] if layer.kind.startswith("Convolution") else layer.bottoms[0]]
    return int(layer.integer(6, 0) * mat.w * mat.h)


def _steps(layer: Layer, blobs: list[memoryview]) -> tuple[float, ...]:
    """The scales of an int8 layer. The file holds their inverses, and 0 for a channel of zeros."""
    last = -2 if layer.integer(8, 0) > 100 else -1
    weight, activation = (np.frombuffer(blobs[i], np.float32) for i in (last - 1, last))
    factors = np.concatenate([activation, weight])
    return tuple(float(step) for step in np.divide(1, factors, out=np.zeros_like(factors), where=factors != 0))


if TYPE_CHECKING:
    from sandglass.backends import ncnn as this_module

    _: Backend[Notes] = this_module
