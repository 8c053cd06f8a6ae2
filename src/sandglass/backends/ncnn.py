"""ncnn on the CPU. pnnx turns the graph into `.param` and `.bin`; int8 is written here from the plan.

Depthwise layers stay in float: their int8 kernels are no faster and cost most of the accuracy. The layer that makes
the output stays in float too. A 3x3 layer of stride 1 keeps to 6 bits and runs by Winograd, or uses all 8 bits with
Winograd masked, as the plan's `weight_bits` says (8 unless edited).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from sandglass.backends import Arrays, Source, run_by_one
from sandglass.errors import BackendError, BackendUnavailable, UnsupportedOperator
from sandglass.quantize.layers import Facts
from sandglass.quantize.plan import Plan
from sandglass.quantize.spec import Spec, decide

if TYPE_CHECKING:
    from sandglass.formats.ncnn_param import Param
    from sandglass.formats.ncnn_table import Scales

INSTALL = "pip install 'sandglass[ncnn]'"
PRECISIONS = ("fp32", "int8")
PURPOSE = "deploy"
PARAM, BIN, TABLE = "model.param", "model.bin", "model.table"
LAYER_KINDS = {"Convolution", "ConvolutionDepthWise", "InnerProduct"}


def exception(layer: Facts) -> str:
    """Why a layer stays in float on ncnn."""
    if layer.depthwise:
        return "depthwise: int8 is no faster in ncnn and costs accuracy"
    if layer.group > 1:
        return "grouped: ncnn has no fast int8 kernel"
    return "it makes the output" if layer.makes_output else ""


SPEC = Spec(("Conv", "Gemm", "MatMul"), asymmetric=False, exception=exception)


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
    from sandglass.formats import ncnn_bin, ncnn_int8, ncnn_param
    from sandglass.formats.ncnn_table import table_text
    from sandglass.graph.load import load_graph, static_inputs, static_outputs

    model = load_graph(source.graph)
    outputs = static_outputs(model)
    notes: dict[str, Any] = {
        "inputs": {name: f"in{i}" for i, name in enumerate(static_inputs(model))},
        "outputs": {name: [f"out{i}", list(shape)] for i, (name, shape) in enumerate(outputs.items())},
    }
    converted = source.once("pnnx", lambda folder: convert(source.graph, folder))
    param = ncnn_param.read_param(converted / PARAM)
    parts = ncnn_bin.read_bin(param, converted / BIN)
    _refuse_unknown(param)
    if plan is not None:
        scales, notes["layers"] = plan_scales(param, parts, plan, model)
        ncnn_int8.quantize(param, parts, scales)
        (folder / TABLE).write_text(table_text(scales), encoding="utf-8")
    (folder / PARAM).write_text(param.text(), encoding="utf-8")
    ncnn_bin.write_bin(parts, folder / BIN)
    return notes


def _pnnx() -> str | None:
    beside = Path(sys.executable).with_name("pnnx")
    return str(beside) if beside.is_file() else shutil.which("pnnx")


def convert(graph: Path, folder: Path) -> None:
    """Write the graph as fp32 `model.param` and `model.bin` into `folder`, by pnnx."""
    program = _pnnx()
    if program is None:
        raise BackendUnavailable("pnnx is not installed", INSTALL)
    with TemporaryDirectory(prefix="sandglass-") as scratch:  # pnnx leaves four more copies of the weights
        shutil.copyfile(graph, Path(scratch) / "graph.onnx")
        command = [program, "graph.onnx", "fp16=0", f"ncnnparam={folder / PARAM}", f"ncnnbin={folder / BIN}"]
        result = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    if result.returncode or not (folder / BIN).is_file():
        lines = (result.stderr + result.stdout).strip().splitlines()
        raise BackendError(f"pnnx failed: {lines[-1] if lines else result.returncode}", "choose another backend")


def _refuse_unknown(param: Param) -> None:
    import ncnn

    unknown = sorted({layer.kind for layer in param.layers if ncnn.layer_to_index(layer.kind) < 0})
    if unknown:
        names = ", ".join(re.split(r"[.:]+", kind)[-1] for kind in unknown)
        raise UnsupportedOperator(f"ncnn lacks the operator {names}", "choose another backend")


def plan_scales(
    param: Param, parts: list[list[memoryview]], plan: Plan, model: Any
) -> tuple[dict[str, Scales], dict[str, str]]:
    """Scales by ncnn layer, and how each layer of the plan runs.

    Layers are matched by their weights: the names are pnnx's own. A layer of the plan whose weights are not found in
    the ncnn model stays in float, with that as its reason.
    """
    from sandglass.formats import ncnn_int8
    from sandglass.formats.ncnn_bin import float_weights
    from sandglass.formats.ncnn_table import Scales

    reasons, names = decide(plan, SPEC, model), match_layers(param, parts, model)
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
        activation = 127 / plan.tensors[decided.input].threshold
        scales[layer.name] = Scales(ncnn_int8.weight_scales(weights, layer, levels), activation)
    return scales, ways


def match_layers(param: Param, parts: list[list[memoryview]], model: Any) -> dict[str, int]:
    """Layers of the graph to places in the `.param`, by equal weights; equal ones in the order they come in."""
    from onnx import numpy_helper

    from sandglass.formats.ncnn_bin import float_weights
    from sandglass.quantize.layers import find_layers

    stored: dict[bytes, list[int]] = {}
    for i, layer in enumerate(param.layers):
        if layer.kind in LAYER_KINDS and parts[i]:
            weights = float_weights(parts[i][0])
            if weights is not None:
                stored.setdefault(_digest(weights), []).append(i)
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    found = {}
    for name, entry in find_layers(model).items():
        weight = numpy_helper.to_array(constants[entry.weight]).astype(np.float32)
        for candidate in (weight, weight.T) if weight.ndim == 2 else (weight,):
            if places := stored.get(_digest(candidate)):
                found[name] = places.pop(0)
                break
    return found


def _digest(weights: np.ndarray) -> bytes:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).digest()


def open(folder: Path, notes: Mapping[str, Any], threads: int, streams: int = 1) -> NcnnSession:
    """A network with float32 arithmetic outside int8 layers. Raises FormatError where the two files do not fit."""
    from sandglass.formats import ncnn_bin, ncnn_param

    # ncnn takes any bytes for weights, and dies of some. This reads lengths only.
    ncnn_bin.read_bin(ncnn_param.read_param(folder / PARAM), folder / BIN)
    return NcnnSession(folder, notes, threads)


class NcnnSession:
    def __init__(self, folder: Path, notes: Mapping[str, Any], threads: int) -> None:
        import ncnn

        self.ncnn, self.notes = ncnn, notes
        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        if self.net.load_param(str(folder / PARAM)) or self.net.load_model(str(folder / BIN)):
            raise BackendError(f"ncnn cannot load {folder}", "deploy the model again")

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
            results[name] = np.array(mat, np.float32).reshape(shape)
        return results
