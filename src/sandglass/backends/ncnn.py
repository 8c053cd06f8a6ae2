"""ncnn on the CPU. pnnx turns the graph into `.param` and `.bin`; int8 is written here from the plan.

Depthwise layers stay in float: their int8 kernels are no faster and cost most of the accuracy. The layer that makes
the output stays in float too. A 3x3 layer of stride 1 keeps to 6 bits and runs by Winograd, or uses all 8 bits with
Winograd masked, as the plan's `weight_bits` says (8 unless edited).
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from sandglass.backends import DEFAULTS, FLOAT, INT8, PROFILED_RUNS, Arrays, LayerRun, Settings, chosen, run_by_one, way
from sandglass.core.distribution import install_command
from sandglass.core.errors import BackendError, BackendUnavailable, FormatError, UnsupportedOperator
from sandglass.core.process import ending, run_program
from sandglass.graph.layers import Facts
from sandglass.quantization.plan import Plan
from sandglass.quantization.spec import Arithmetic, Spec, decide
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from sandglass.formats.ncnn_param import Layer, Param
    from sandglass.formats.ncnn_table import Scales

INSTALL = install_command("ncnn")
PRECISIONS = ("fp32", "fp16", "int8")
PURPOSE = "deploy"
DYNAMIC = True
PARAM, BIN, TABLE, LOG = "model.param", "model.bin", "model.table", "pnnx.log"
MOST_LETTERS = 240  # of what pnnx says, in a message
SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "winograd": ("all", "f23", "f43", "f63", "off"),
    "sgemm": (True, False),
    "packing": (True, False),
    "storage": ("float32", "float16", "bfloat16"),
    "blocktime": (20, 0),  # milliseconds that a thread without work spins before it sleeps
}
LAYER_KINDS = {"Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise", "InnerProduct"}


def exception(layer: Facts) -> str:
    """Why a layer stays in float on ncnn."""
    if layer.depthwise:
        return "depthwise: int8 is no faster in ncnn and costs accuracy"
    if layer.group > 1:
        return "grouped: ncnn has no fast int8 kernel"
    return "it makes the output" if layer.makes_output else ""


def bits(layer: Facts) -> tuple[int, ...]:
    """8-bit weights, or 6 bits where that lets Winograd's sums fit."""
    plain = layer.layer.operator == "Conv" and layer.shape[2:] == (3, 3) and layer.group == 1
    return (8, 6) if plain and set(layer.stride) == set(layer.dilation) == {1} else (8,)


SPEC = Spec(
    ("Conv", "Gemm", "MatMul"),
    asymmetric=False,
    timed_converting=True,  # each result is asked for, in floats, even of the few layers that hand on integers
    pads=True,
    exception=exception,
    bits=bits,
    arithmetic=Arithmetic(fused_sums=True, half_away=True, ordered_taps=True),
)


def available() -> str:
    """The version of ncnn; raises BackendUnavailable when it or pnnx is missing."""
    try:
        import ncnn
    except ImportError as error:
        raise BackendUnavailable("ncnn is not installed", INSTALL) from error
    if _pnnx() is None:
        raise BackendUnavailable("pnnx is not installed", INSTALL)
    return str(ncnn.__version__)


def build(source: Source, precision: str, folder: Path, plan: Plan | None) -> dict[str, Any]:
    """Write `model.param` and `model.bin`, and for int8 the `model.table` of its scales, as ncnn's own tools use it.

    Raises UnsupportedOperator naming what ncnn lacks.
    """
    from sandglass.backends._ncnn_lowering import restore
    from sandglass.formats import ncnn_bin, ncnn_int8, ncnn_param
    from sandglass.formats.ncnn_table import table_text
    from sandglass.graph.io import drop_weights, load_graph, static_inputs, static_outputs
    from sandglass.lowering.half_precision import float_layers

    model = load_graph(source.graph)
    outputs = static_outputs(model)
    notes: dict[str, Any] = {
        "inputs": {name: f"in{i}" for i, name in enumerate(static_inputs(model))},
        "outputs": {
            name: [f"out{i}", [*shape[:2], -1, -1] if source.shapes and len(shape) == 4 else list(shape)]
            for i, (name, shape) in enumerate(outputs.items())
        },
    }
    digests = weight_digests(model)
    drop_weights(model)  # its weights and the converted ones are never in memory together
    converted = source.once("pnnx", lambda folder: convert(source.graph, folder, bool(source.shapes)))
    try:
        param = ncnn_param.read_param(converted / PARAM)
        restore(param, model)
        _refuse_unknown(param, converted)
        parts = ncnn_bin.read_bin(param, converted / BIN)
    except FormatError as error:
        raise BackendError(f"the files that pnnx wrote are not understood: {error.message}",
                           "report the model") from error  # fmt: skip
    places = match_layers(param, parts, digests)
    notes["names"] = {param.layers[i].name: name for name, i in places.items()}
    if plan is not None:
        scales, notes["layers"] = plan_scales(param, parts, plan, decide(plan, SPEC, model), places)
        ncnn_int8.quantize(param, parts, scales)
        (folder / TABLE).write_text(table_text(scales), encoding="utf-8")
    if precision == "fp16":
        parts = [ncnn_bin.halved(layer, blobs) for layer, blobs in zip(param.layers, parts, strict=True)]
        notes["storage"] = "float32" if source.wide else "float16"
        notes["float_layers"] = float_layers(model, source.wide)
    (folder / PARAM).write_text(param.text(), encoding="utf-8")
    ncnn_bin.write_bin(parts, folder / BIN)
    return notes


def _pnnx() -> str | None:
    """The converter's program: the one in its Python package, whose script would import PyTorch first, or another."""
    package = importlib.util.find_spec("pnnx")
    folders = package.submodule_search_locations or [] if package else []
    programs = (Path(folder) / name for folder in folders for name in ("pnnx", "pnnx.exe"))
    return next((str(program) for program in programs if program.is_file()), None) or shutil.which("pnnx")


def convert(graph: Path, folder: Path, any_size: bool = False) -> None:
    """Write the graph as fp32 `model.param` and `model.bin` into `folder`, by pnnx, with what it said in `pnnx.log`.

    With `any_size` nothing of the result may depend on the size of the graph's input. Raises BackendError where pnnx
    fails, dies or takes too long, and UnsupportedOperator for what ncnn lacks.
    """
    from sandglass.backends._ncnn_lowering import lower
    from sandglass.graph.io import load_graph, save_graph

    program = _pnnx()
    if program is None:
        raise BackendUnavailable("pnnx is not installed", INSTALL)
    with TemporaryDirectory(prefix="sandglass-") as scratch:  # pnnx leaves four more copies of the weights
        lower(model := load_graph(graph), any_size)
        save_graph(model, Path(scratch) / "graph.onnx")
        command = [program, "graph.onnx", "fp16=0", f"ncnnparam={folder / PARAM}", f"ncnnbin={folder / BIN}"]
        result = run_program(command, Path(scratch))
    (folder / LOG).write_text(result.stdout + result.stderr, encoding="utf-8")
    if result.returncode or not (folder / BIN).is_file():
        how = _ending(result.returncode, folder)
        raise BackendError(f"pnnx, which converts graphs for ncnn, {how}", "choose another backend")


def _ending(code: int, folder: Path) -> str:
    """How pnnx ended without a result: by which signal, or with which error."""
    lines = (folder / LOG).read_text(errors="replace").splitlines()
    errors = [line for line in lines if "failed" in line or "error" in line.lower()]
    if errors:
        reason = re.sub(r"\x1b\[[\d;]*m|/\S+:\d+ .*\) (?=\w)", "", errors[-1])  # colours, and places in C++ files
        return f"failed: {reason[:MOST_LETTERS]}"
    return ending(code)


def _refuse_unknown(param: Param, converted: Path) -> None:
    """Raise UnsupportedOperator where pnnx left operators that ncnn does not have, with what pnnx knew of them."""
    import ncnn

    unknown = {layer.name: layer.kind for layer in param.layers if ncnn.layer_to_index(layer.kind) < 0}
    if not unknown:
        return
    name, kind = min(unknown.items())
    log = (converted / LOG).read_text(errors="replace")
    parameters = re.findall(rf"^ignore {re.escape(kind)} {re.escape(name)} param (.*)$", log, re.MULTILINE)
    others = sorted({_plain(other) for other in unknown.values()} - {_plain(kind)})
    raise UnsupportedOperator(
        f"ncnn lacks the operator {_plain(kind)}"
        + (f" with {', '.join(parameters)}" if parameters else "")
        + (f", and {', '.join(others)}" if others else ""),
        "choose another backend",
    )


def _plain(kind: str) -> str:
    """The name of an operator without that of its library."""
    return re.split(r"[.:]+", kind)[-1]


def plan_scales(
    param: Param,
    parts: list[list[memoryview]],
    plan: Plan,
    reasons: Mapping[str, str],
    names: Mapping[str, int],
) -> tuple[dict[str, Scales], dict[str, str]]:
    """Scales by ncnn layer, and how each layer of the plan runs.

    `reasons` say which layers stay in float, `names` where the others are: those of the `.param` are pnnx's own. A
    layer whose weights were not found in the ncnn model stays in float, with that as its reason.
    """
    from sandglass.formats import ncnn_int8
    from sandglass.formats.ncnn_bin import float_weights
    from sandglass.formats.ncnn_table import Scales

    scales: dict[str, Scales] = {}
    ways: dict[str, str] = {}
    for name, reason in reasons.items():
        if not reason and name not in names:
            reason = "its weights are not in the converted model"
        if reason:
            ways[name] = f"float: {reason}"
            continue
        index, decided = names[name], plan.layers[name]
        layer = param.layers[index]
        weights = float_weights(parts[index][0])
        assert weights is not None
        levels = ncnn_int8.ALL_LEVELS
        ways[name] = "int8"
        if ncnn_int8.runs_winograd(layer):
            if decided.weight_bits == 6:
                levels, ways[name] = ncnn_int8.WINOGRAD_LEVELS, "int8, 6-bit weights, Winograd"
            else:
                ways[name] = "int8, Winograd masked"
        given = plan.weight_scales(name, decided.weight_bits)
        factors = ncnn_int8.weight_scales(weights, layer, levels) if given is None else 1 / given
        activation = 127 / plan.tensors[decided.input].threshold
        scales[layer.name] = Scales(factors, activation)
    return scales, ways


def weight_digests(model: Any) -> dict[str, tuple[bytes, ...]]:
    """Hashes of each layer's weights, as they are and with inputs and outputs exchanged.

    Matrices and transposed convolutions may be stored either way.
    """
    from onnx import numpy_helper

    from sandglass.graph.layers import find_layers

    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    found = {}
    for name, layer in find_layers(model).items():
        weight = numpy_helper.to_array(constants[layer.weight]).astype(np.float32)
        exchanged = layer.operator != "Conv" and weight.ndim > 1
        found[name] = (_digest(weight), *([_digest(weight.swapaxes(0, 1))] if exchanged else []))
    return found


def match_layers(
    param: Param, parts: list[list[memoryview]], digests: Mapping[str, tuple[bytes, ...]]
) -> dict[str, int]:
    """Layers of the graph to places in the `.param`, by equal weights; equal ones in the order they come in."""
    from sandglass.formats.ncnn_bin import float_weights

    stored: dict[bytes, list[int]] = {}
    for i, layer in enumerate(param.layers):
        if layer.kind in LAYER_KINDS and parts[i]:
            weights = float_weights(parts[i][0])
            if weights is not None:
                stored.setdefault(_digest(weights), []).append(i)
    found = {}
    for name, candidates in digests.items():
        places = next((stored[digest] for digest in candidates if stored.get(digest)), None)
        if places:
            found[name] = places.pop(0)
    return found


def _digest(weights: np.ndarray) -> bytes:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).digest()


def open(
    folder: Path, notes: Mapping[str, Any], threads: int, settings: Settings = DEFAULTS, callers: int = 1
) -> NcnnSession:
    """A network, by default with float32 arithmetic outside int8 layers.

    Raises FormatError where the two files do not fit.
    """
    from sandglass.formats import ncnn_bin, ncnn_param

    # ncnn takes any bytes for weights, and dies of some. This reads lengths only.
    try:
        ncnn_bin.read_bin(ncnn_param.read_param(folder / PARAM), folder / BIN)
    except FormatError as error:
        raise FormatError(error.message, "deploy the model again") from error
    return NcnnSession(folder, notes, threads, settings)


def layers(folder: Path, notes: Mapping[str, Any], threads: int, inputs: Arrays) -> list[LayerRun]:
    """Every layer of the `.param`: its scale term says whether it runs in int8.

    ncnn has no timer in Python: each layer is timed by asking for its result after those before it. What usually works
    in place then copies its input first.
    """
    from sandglass.formats import ncnn_bin, ncnn_int8, ncnn_param

    session = open(folder, notes, threads)
    param = ncnn_param.read_param(folder / PARAM)
    parts = ncnn_bin.read_bin(param, folder / BIN)
    names = notes.get("names", {})
    times: list[list[float]] = []
    for _ in range(1 + PROFILED_RUNS):
        mats, spent = session.walk(inputs, [layer.tops[-1] for layer in param.layers])
        times.append(spent)
    medians = np.median(times[1:], axis=0) * 1e3
    shapes = {blob: mat for layer, mat in zip(param.layers, mats, strict=True) for blob in layer.tops}
    runs = []
    for layer, blobs, milliseconds in zip(param.layers, parts, medians, strict=True):
        if layer.kind in ("Input", "Split"):  # these compute nothing
            continue
        integer = layer.kind in ncnn_int8.KINDS and layer.integer(ncnn_int8.SCALE_TERM, 0) > 0
        name, arithmetic = names.get(layer.name, layer.name), INT8 if integer else FLOAT
        steps = _steps(layer, blobs) if integer else ()
        note, macs, made = way(notes, name, arithmetic), _macs(layer, shapes), shapes[layer.tops[0]]
        terms = macs // max(1, made.w * made.h * made.c * made.elempack)
        runs.append(LayerRun(name, layer.kind, arithmetic, macs, float(milliseconds), note, steps, terms))
    return runs


def _macs(layer: Layer, shapes: Mapping[str, Any]) -> int:
    """Every weight is used once for each place of the output, or of the input of a transposed convolution."""
    if layer.kind == "InnerProduct":
        return layer.integer(2, 0)
    if not layer.kind.startswith(("Convolution", "Deconvolution")):
        return 0
    mat = shapes[layer.tops[0] if layer.kind.startswith("Convolution") else layer.bottoms[0]]
    return int(layer.integer(6, 0) * mat.w * mat.h)


def _steps(layer: Layer, blobs: list[memoryview]) -> tuple[float, ...]:
    """Steps of an int8 layer, whose file holds their inverses, and 0 for a channel of zeros."""
    last = -2 if layer.integer(8, 0) > 100 else -1
    weight, activation = (np.frombuffer(blobs[i], np.float32) for i in (last - 1, last))
    factors = np.concatenate([activation, weight])
    return tuple(float(step) for step in np.divide(1, factors, out=np.zeros_like(factors), where=factors != 0))


class NcnnSession:
    def __init__(self, folder: Path, notes: Mapping[str, Any], threads: int, settings: Settings = DEFAULTS) -> None:
        import ncnn

        given = chosen(SETTINGS, {"storage": notes.get("storage", "float32"), **settings})
        self.ncnn, self.notes = ncnn, notes
        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads
        half, brain = given["storage"] == "float16", given["storage"] == "bfloat16"
        options.use_fp16_packed = options.use_fp16_storage = half
        options.use_fp16_arithmetic = half and notes.get("storage") == "float16"
        options.use_bf16_packed = options.use_bf16_storage = brain
        options.use_winograd_convolution = given["winograd"] != "off"
        for kind in ("23", "43", "63"):
            setattr(options, f"use_winograd{kind}_convolution", given["winograd"] in ("all", f"f{kind}"))
        options.use_sgemm_convolution, options.use_packing_layout = given["sgemm"], given["packing"]
        options.openmp_blocktime = given["blocktime"]
        if self.net.load_param(str(folder / PARAM)) or self.net.load_model(str(folder / BIN)):
            raise BackendError(f"ncnn cannot load {folder}", "deploy the model again")

    def walk(self, inputs: Arrays, blobs: list[str]) -> tuple[list[Any], list[float]]:
        """Results of blobs in the order they are computed, as stored, and the seconds each took after the last one."""
        kept = {name: np.ascontiguousarray(array[0], np.float32) for name, array in inputs.items()}
        extractor = self.net.create_extractor()
        extractor.set_light_mode(False)  # it would free what the next layers read
        for name, array in kept.items():
            extractor.input(self.notes["inputs"][name], self.ncnn.Mat(array))
        mats, seconds = [], []
        for blob in blobs:
            started = time.perf_counter()
            status, mat = extractor.extract(blob, 1)
            seconds.append(time.perf_counter() - started)
            if status:
                raise BackendError(f"ncnn failed to compute {blob}", "deploy the model again")
            mats.append(mat)
        return mats, seconds

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; ncnn takes one image at a time."""
        return run_by_one(self._one, inputs)

    def _one(self, inputs: Arrays) -> dict[str, np.ndarray]:
        extractor = self.net.create_extractor()
        for name, array in inputs.items():
            # A Mat over an array's memory counts no references, which a first layer that works in place dies of.
            image = np.ascontiguousarray(array[0], np.float32)
            extractor.input(self.notes["inputs"][name], self.ncnn.Mat(image).clone())
        results = {}
        for name, (blob, shape) in self.notes["outputs"].items():
            status, mat = extractor.extract(blob)
            if status:
                raise BackendError(f"ncnn failed to compute {name}", "deploy the model again")
            values = np.array(mat, np.float32)
            if -1 not in shape and values.size != np.prod(shape):
                raise BackendError(f"ncnn computes {values.shape} for the output {name}, the graph has {shape}",
                                   "choose another backend")  # fmt: skip
            results[name] = values[np.newaxis] if -1 in shape else values.reshape(shape)
        return results
