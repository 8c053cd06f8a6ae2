"""Any ONNX file to a graph: a current opset, static shapes, BatchNorm folded, simplified, and proved equal."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxslim
from onnx import version_converter

from sandglass.difference import relative_difference
from sandglass.errors import GraphError, ParityError
from sandglass.formats import foreign
from sandglass.graph.affine import fold_affines
from sandglass.graph.affine_before import fold_affines_before
from sandglass.graph.attributes import removed_attributes
from sandglass.graph.execute import GraphSession
from sandglass.graph.hard_swish import fuse_hard_swish
from sandglass.graph.inputs import weights_are_no_inputs
from sandglass.graph.load import load_graph, save_graph, static_inputs, static_outputs
from sandglass.graph.operators import foreign_operators
from sandglass.graph.shapes import fix_input
from sandglass.graph.slices import strided_slices
from sandglass.reading import MALFORMED

OPSET = 17
IR_VERSION = 8
TOLERANCE = 1e-4  # of the largest output; folding BatchNorm rounds the weights once
ROUNDINGS, COARSEST = 2, 5e-3
TRIALS = 3

# In this order: the converter refuses what the first two take away.
REWRITES = (weights_are_no_inputs, removed_attributes)


def bring_up_file(source: Path, out: Path, size: tuple[int, int]) -> None:
    """Bring up the file `source`, ONNX or of another format that is read, and write the graph to `out`.

    Raises GraphError when it cannot be, and ParityError when the result differs from the original on random inputs
    (see `compare`).
    """
    with TemporaryDirectory(prefix="sandglass-") as folder:
        original = foreign.as_onnx(source, size, Path(folder))
        model = bring_up(load_graph(original), size)
        save_graph(model, out)
        compare(original, out, static_inputs(model))


def check_size(source: Path, graph: Path, size: tuple[int, int]) -> None:
    """Compare a graph, brought up at another size, with the file `source` at `size`; raises as `compare` does."""
    with TemporaryDirectory(prefix="sandglass-") as folder:
        original = foreign.as_onnx(source, size, Path(folder))
        (name,) = (value.name for value in load_graph(graph).graph.input)
        compare(original, graph, {name: (1, 3, *size)})


def bring_up(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """The graph of an ONNX model, for one image of `size` (height, width).

    Raises GraphError when it cannot be; where operators that ONNX does not define are in the way, it names them.
    """
    foreign = foreign_operators(model)
    try:
        for rewrite in REWRITES:
            rewrite(model)
        model = convert(model)
        fix_input(model, size)
        return simplify(model)
    except GraphError as error:
        if not foreign:
            raise
        raise GraphError(
            f"the graph has {', '.join(foreign)}, which ONNX does not define: {error.message}",
            "export the model with standard operators: no backend takes others",
        ) from error


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """To OPSET, where the model is older; IR version to match. A newer model keeps its opset."""
    model.ir_version = max(IR_VERSION, min(model.ir_version, 10))  # before IR 4 weights had to be inputs
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, version_converter.ConvertError) as error:
            reason = str(error).strip().splitlines()[0]
            raise GraphError(f"opset {version} cannot be brought to {OPSET}: {reason}", "export it newer") from error
    return model


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, shapes inferred, BatchNorm merged into convolutions (onnxslim); GraphError if it fails.

    What some runtimes lack and others can say as well is then rewritten.
    """
    try:
        slim = onnxslim.slim(model)
    except MALFORMED as error:  # a cycle, a function that calls itself, a node without what it needs
        raise GraphError(f"onnxslim could not simplify the graph: {error}", "check it with onnx.checker") from error
    if slim is None:
        raise GraphError("onnxslim could not simplify the graph", "check the model with onnx.checker")
    inferred = onnx.shape_inference.infer_shapes(slim)
    static_outputs(inferred)
    strided_slices(inferred)
    fold_affines(inferred)
    name_nodes(inferred)
    fuse_hard_swish(inferred)
    fold_affines_before(inferred)
    return onnx.shape_inference.infer_shapes(inferred)


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give nodes without a name, or with one that is taken, their first output's name: plans refer to nodes by name."""
    seen: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{node.output[0]}"
        seen.add(node.name)
    return model


def compare(before: Path, after: Path, shapes: dict[str, tuple[int, ...]]) -> float:
    """Largest difference of two graphs on random inputs over the largest output; ParityError where it is too large.

    Too large is over TOLERANCE, and over twice the difference that the original shows when only the order of its own
    arithmetic changes: a few networks round that coarsely, on noise at least.
    """
    random = np.random.default_rng(0)
    feeds = [
        {name: (scale * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
        for scale in np.linspace(0.5, 2, TRIALS)
    ]
    original = GraphSession(before)
    worst = _difference(original, GraphSession(after), feeds)
    if not worst <= TOLERANCE and not worst <= ROUNDINGS * _own_rounding(original, before, feeds):
        raise ParityError(f"{before.name} changed by {worst:.1e} of its largest value when it was brought up",
                          "report the model")  # fmt: skip
    return worst


def _difference(first: GraphSession, second: GraphSession, feeds: list[dict[str, np.ndarray]]) -> float:
    worst = 0.0
    for feed in feeds:
        found = second.run(feed)
        for name, expected in first.run(feed).items():
            worst = max(worst, relative_difference(expected, found[name]))
    return worst


def _own_rounding(original: GraphSession, path: Path, feeds: list[dict[str, np.ndarray]]) -> float:
    """Difference of a graph run node by node from the same graph optimized; 0 where its nodes alone do not run."""
    try:
        found = _difference(original, GraphSession(path, optimize=False), feeds)
    except GraphError:
        return 0.0
    return min(found, COARSEST)
