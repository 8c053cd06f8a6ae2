"""Convert a graph to TVM kernels without schedules: import, layout, fusion.

Channels are the last axis (NHWC, weights HWIO), as the schedules of `_tvm_kernels` need.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
import onnx

from sandglass.backends._tvm_kernels import FEWEST_LANES, TRANSPOSED, registers
from sandglass.core.errors import BackendError, UnsupportedOperator
from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import attributes_of

if TYPE_CHECKING:
    from tvm.ir import IRModule, PrimExpr
    from tvm.relax import BlockBuilder, Call, Expr
    from tvm.target import Target
    from tvm.te import Tensor
    from tvm.tirx import Var

LAYOUT = {"relax.nn.conv2d": ["NHWC", "HWIO"], "relax.nn.conv2d_transpose": ["NHWC", "IOHW"]}
CLAMPS = ("maximum", "minimum")
# TVM's exceptions have no common base class except Exception.
ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, LookupError, AttributeError)


def kernels(model: onnx.ModelProto, target: Target) -> IRModule:
    """The graph as a Relax module: fused kernels without schedules, and the function that calls them.

    Raises UnsupportedOperator with the operators that TVM's importer lacks, and BackendError for any other error.
    """
    import tvm
    from tvm.relax import transform
    from tvm.relax.frontend.onnx import from_onnx

    try:
        module = _named_clamps(from_onnx(_whole_vectors(model, registers(target).lanes)))
        passes = [
            transform.DecomposeOpsForInference(),
            transform.CanonicalizeBindings(),
            transform.ConvertLayout(LAYOUT),
            transform.FoldConstant(),
            transform.LegalizeOps({"relax.nn.conv2d_transpose": _transposed}),
            transform.AnnotateTIROpPattern(),
            transform.FoldConstant(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
        ]
        with target:
            return tvm.transform.Sequential(passes)(module)
    except tvm.error.OpNotImplemented as error:
        names = str(error).rpartition(":")[2].strip()
        raise UnsupportedOperator(f"TVM lacks operators of the graph: {names}", "choose another backend") from error
    except ERRORS as error:
        raise BackendError(f"TVM cannot read the graph: {reason(error)}", "choose another backend") from error


def _whole_vectors(model: onnx.ModelProto, lanes: int) -> onnx.ModelProto:
    """A copy of the graph in which convolutions have a multiple of `lanes` output channels; a Slice removes the rest.

    Heads have one channel for each keypoint or class. Without this change, 17 channels are computed one by one.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    with GraphIndex(changed) as graph:
        for node in reversed(graph):
            if node.op_type == "Conv" and attributes_of(node).get("group", 1) == 1:
                weights = [values for values in map(graph.value, node.input[1:]) if values is not None]
                if len(weights) == len(node.input) - 1 and gcd(len(weights[0]), lanes) < FEWEST_LANES:
                    _compute_whole(graph, node, weights, lanes)
    return changed


def _compute_whole(graph: GraphIndex, node: onnx.NodeProto, weights: Sequence[np.ndarray], lanes: int) -> None:
    """Add zero filters to a convolution, up to a multiple of `lanes` channels, and a Slice to remove their results."""
    channels, output = len(weights[0]), node.output[0]
    for i, values in enumerate(weights, 1):
        zeros = np.zeros((-channels % lanes, *values.shape[1:]), values.dtype)
        graph.set_input(node, i, graph.add_constant(f"{output}_whole_{i}", np.concatenate([values, zeros])))
    whole = graph.fresh(f"{output}_whole")
    graph.set_output(node, 0, whole)
    ends = [
        graph.add_constant(f"{output}_{name}", np.array([value], np.int64))
        for name, value in (("start", 0), ("end", channels), ("axis", 1))
    ]
    graph.insert_after(node, [onnx.helper.make_node("Slice", [whole, *ends], [output])])


def reason(error: Exception) -> str:
    """The last line of an exception's message, which has the reason."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _named_clamps(module: IRModule) -> IRModule:
    """Replace clips by operators that the layout conversion supports; the importer writes them as opaque kernels."""
    import tvm
    from tvm import relax
    from tvm.relax.expr_functor import PyExprMutator, mutator

    @mutator
    class Clamps(PyExprMutator):
        def visit_call_(self, call: Call) -> Expr:
            call = super().visit_call_(call)
            if call.op == tvm.ir.Op.get("relax.call_tir"):
                name, operands = call.args[0].name_hint.rstrip("0123456789"), call.args[1]
                if name in CLAMPS and len(operands.fields) == 2:
                    return getattr(relax.op, name)(*operands.fields)
            return call

    rewriter = Clamps(module)
    module["main"] = rewriter.visit_expr(module["main"])
    return module


def _transposed(builder: BlockBuilder, call: Call) -> Expr:
    """A transposed convolution, NHWC, as a sum over only those pixels that contribute to an output.

    TVM's own version inserts zeros between the pixels and multiplies by them: 3 of 4 products at stride 2. Here, output
    y uses the weights at (y + pad) mod stride and every stride-th weight after it.
    """
    from tvm import te, topi

    attributes = call.attrs
    down, right = (int(step) for step in attributes.strides)
    top, left = (int(pad) for pad in attributes.padding[:2])
    groups, holes = int(attributes.groups), [int(hole) for hole in attributes.dilation]
    _, height, width, channels = (int(size) for size in call.ty.shape)
    into, out, *_ = (int(size) for size in call.args[1].ty.shape)  # of the weight: all inputs, outputs of a group

    def arranged(weight: Tensor) -> Tensor:
        """The weight as HWIO, padded with zeros at the end to multiples of the stride."""
        weight = topi.nn.dilate(weight, [1, 1, *holes]) if holes != [1, 1] else weight
        rows, columns = (int(size) for size in weight.shape[2:])
        weight = topi.nn.pad(weight, (0, 0, 0, 0), (0, 0, -rows % down, -columns % right))
        shape = (*weight.shape[2:], into // groups, channels)
        return te.compute(shape, lambda y, x, i, o: weight[(o // out) * (into // groups) + i, o % out, y, x])

    def convolved(image: Tensor, weight: Tensor) -> Tensor:
        rows, columns, depth, _ = (int(size) for size in weight.shape)
        rows, columns = rows // down, columns // right
        missing = [max(0, (size - 1 + pad) // step + 1 - int(have)) for size, pad, step, have in
                   ((height, top, down, image.shape[1]), (width, left, right, image.shape[2]))]  # fmt: skip
        padded = topi.nn.pad(image, (0, rows - 1, columns - 1, 0), (0, *missing, 0), name="pad_temp")
        r = te.reduce_axis((0, rows), "ry")
        s = te.reduce_axis((0, columns), "rx")
        i = te.reduce_axis((0, depth), "rc")

        def value(n: Var, y: Var, x: Var, o: Var) -> PrimExpr:
            pixel = padded[n, (y + top) // down + rows - 1 - r, (x + left) // right + columns - 1 - s,
                           i if groups == 1 else (o // out) * depth + i]  # fmt: skip
            return te.sum(pixel * weight[(y + top) % down + down * r, (x + left) % right + right * s, i, o], [r, s, i])

        return te.compute((image.shape[0], height, width, channels), value, name=TRANSPOSED)

    weight = builder.emit(builder.call_te(arranged, call.args[1], primfunc_name_hint="arranged"))
    return builder.call_te(convolved, call.args[0], weight, primfunc_name_hint=TRANSPOSED)
