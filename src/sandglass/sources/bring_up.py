"""Convert an ONNX file to a checked graph: float32, current opset, static shapes, BatchNorm folded, simplified.

The graph is compared with the file. A quantized file may keep its operators; then only its shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
import onnxslim
from onnx import version_converter
from onnxslim.third_party.onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from sandglass.core.errors import GraphError, ParityError
from sandglass.core.reading import MALFORMED
from sandglass.graph.io import load_graph, save_graph, static_inputs, static_outputs
from sandglass.graph.names import name_nodes
from sandglass.graph.session import run_once
from sandglass.graph.shapes import check_input, fix_input, has_open_outputs, set_output_shapes
from sandglass.lowering.transposed_conv import MARK
from sandglass.sources import foreign
from sandglass.sources.agreement import LEAST_OF_NARROW, LEAST_OF_QUANTIZED, compare, session
from sandglass.sources.quantized import is_quantized, own_grids
from sandglass.sources.rewrites import (
    constants_as_weights,
    dequantize,
    float32,
    run_stage,
    weights_among_inputs,
)
from sandglass.sources.rewrites.float32 import is_float32, is_narrow
from sandglass.sources.rewrites.single_image import fixed_batch
from sandglass.sources.unknown_operators import foreign_operators

OPSET = 17
IR_VERSION = 8

# onnxslim does not document its exceptions. It raises these for graphs that it does not understand.
SLIM_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OnnxGraphSurgeonException,
    RuntimeError,
    TypeError,
    ValueError,
)

Quantized = Literal["refuse", "keep", "float"]  # for a quantized file: refuse it, keep its integers, convert to float


def bring_up_file(source: Path, out: Path, size: tuple[int, int], quantized: Quantized = "refuse") -> bool:
    """Convert the file `source`, ONNX or another supported format, to a graph for one image of `size` (height, width).

    The graph is written to `out`. Returns whether it has integers; `quantized` says how to treat a quantized file.
    Raises GraphError if the file cannot be converted, and ParityError if the graph and the file differ on random inputs
    (see `compare`).
    """
    with TemporaryDirectory(prefix="sandglass-") as folder:
        original, model = _whole_graph(source, size, Path(folder))
        if is_quantized(model) and quantized == "refuse":
            raise GraphError(
                f"{source.name} is quantized already, but this command needs a float model",
                "run `sandglass deploy --dequantize` to fp32, and give the folder of this artifact as the source",
            )
        with _opened_for_one(source, batch := fixed_batch(model)):
            plain = _in_float(original, model, Path(folder) / "float.onnx", size, quantized == "float")
            model = model if plain == original else load_graph(plain)
            has_integers = is_quantized(model)
            graph = with_integers(model, size) if has_integers else bring_up(model, size)
            save_graph(graph, out)
            compare(plain, out, static_inputs(graph), batch)
    return has_integers


def _whole_graph(source: Path, size: tuple[int, int], folder: Path) -> tuple[Path, onnx.ModelProto]:
    """The ONNX file `source`, or a converted one in `folder`, and its graph. ONNX Runtime can load the file.

    ONNX allows two nodes of one name, but ONNX Runtime does not, so such nodes get new names. Files with unknown
    operators are not loaded here, because `bring_up` has a better error for them.
    """
    path = foreign.as_onnx(source, size, folder)
    model = load_graph(path)
    names = [node.name for node in model.graph.node if node.name]
    if len({*names}) < len(names):
        name_nodes(model, reserved=MARK)
        path = folder / source.with_suffix(".onnx").name
        save_graph(model, path)
    if is_quantized(model) or not foreign_operators(model):
        session(path, optimize=False)
    return path, model


def _in_float(original: Path, model: onnx.ModelProto, out: Path, size: tuple[int, int], requested: bool) -> Path:
    """The file in float32: the file itself, or a converted one in `out`, which is compared with the file.

    If `requested`, a quantized file is converted to float too.
    """
    integers = requested and is_quantized(model)
    if is_float32(model) and not integers:
        return original
    narrow = is_narrow(model)
    for member in (weights_among_inputs, constants_as_weights, float32):
        member.rewrite(model)
    check_input(model, size)
    images = {model.graph.input[0].name: (fixed_batch(model), 3, *size)}
    if integers:
        dequantize.rewrite(model)
    save_graph(model, out)
    compare(original, out, images, least=LEAST_OF_QUANTIZED if integers else LEAST_OF_NARROW if narrow else None)
    return out


@contextmanager
def _opened_for_one(source: Path, batch: int) -> Iterator[None]:
    """Add to errors that the file has a fixed batch of several images."""
    try:
        yield
    except (GraphError, ParityError) as error:
        if batch == 1:
            raise
        raise GraphError(
            f"{source.name} has a fixed batch of {batch} images, and is wrong for one image: {error.message}",
            "export it with a batch of 1, or with a dynamic batch",
        ) from error


def check_size(source: Path, graph: Path, size: tuple[int, int]) -> None:
    """Compare a graph that was converted at another size with the file `source` at `size`. Raises like `compare`."""
    with TemporaryDirectory(prefix="sandglass-") as folder:
        original, before = _whole_graph(source, size, Path(folder))
        after = load_graph(graph)
        least = LEAST_OF_NARROW if is_narrow(before) else None
        least = LEAST_OF_QUANTIZED if is_quantized(before) and not is_quantized(after) else least
        (name,) = (value.name for value in after.graph.input)
        compare(original, graph, {name: (1, 3, *size)}, fixed_batch(before), least)


def bring_up(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """Convert an ONNX model to a graph for one image of `size` (height, width).

    Raises GraphError if this fails. If the model has operators that ONNX does not define, the error names them.
    """
    foreign = foreign_operators(model)
    try:
        run_stage("exported", model)  # removes attributes that the version converter refuses
        model = convert(model)
        one_image(model, size)
        return simplify(model)
    except GraphError as error:
        if not foreign:
            raise
        raise GraphError(
            f"the graph has {', '.join(foreign)}, which ONNX does not define: {error.message}",
            "export the model with standard operators; backends do not support others",
        ) from error


def with_integers(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """A quantized model for one image of `size` (height, width), with its operators unchanged.

    Raises GraphError for an input of another shape or type.
    """
    weights_among_inputs.rewrite(model)
    one_image(model, size)
    own_grids(model)
    name_nodes(model, reserved=MARK)
    model = onnx.shape_inference.infer_shapes(model)
    if has_open_outputs(model):  # operators that shape inference does not know
        noise = {name: np.zeros(shape, np.float32) for name, shape in static_inputs(model).items()}
        set_output_shapes(model, {name: values.shape for name, values in run_once(model, noise).items()})
    return model


def one_image(model: onnx.ModelProto, size: tuple[int, int]) -> None:
    """Fix the input to one image of `size` (height, width), in place, and divide constants that depend on the batch."""
    run_stage("converted", model)
    fix_input(model, size)


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert an older model to OPSET and a matching IR version. A newer model keeps its opset."""
    model.ir_version = max(IR_VERSION, min(model.ir_version, 10))  # before IR 4 weights had to be inputs
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, version_converter.ConvertError) as error:
            reason = str(error).strip().splitlines()[0]
            raise GraphError(
                f"opset {version} cannot be converted to {OPSET}: {reason}", "export the model with a newer opset"
            ) from error
    return model


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, infer shapes, merge BatchNorm into convolutions (with onnxslim), and run the rewrites.

    The rewrites replace operators that some runtimes do not support by equivalent ones. Raises GraphError if onnxslim
    fails.
    """
    try:
        slim = onnxslim.slim(model)
    except (*SLIM_ERRORS, *MALFORMED) as error:  # a cycle, a function that calls itself, a node without inputs
        line = next(iter(str(error).splitlines()), "")
        raise GraphError(
            f"the graph cannot be simplified: {type(error).__name__}: {line}", "report the model"
        ) from error
    if slim is None:
        raise GraphError("onnxslim could not simplify the graph", "check the model with onnx.checker")
    inferred = onnx.shape_inference.infer_shapes(slim)
    static_outputs(inferred)
    run_stage("simplified", inferred)
    del inferred.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(inferred)
