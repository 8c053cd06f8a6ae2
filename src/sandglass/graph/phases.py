"""Depthwise transposed convolutions as convolutions: one for each phase of the stride, whose results interleave.

Output o of a transposed convolution with stride s meets only the taps k with k = o + pad (mod s). For outputs that are
equal modulo s these are always the same taps, so that they are a convolution of their own; DepthToSpace puts the s x s
results where they belong. The arithmetic is the same. Runtimes that have no fast kernel for the one have it for the
other. What follows the layer alone, a clamp and its rounding, is done before the results interleave.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.load import set_nodes
from sandglass.quantize.layers import CLAMPS

FOLLOWING = (*CLAMPS, "QuantizeLinear", "DequantizeLinear")
MARK = ".phase"


@dataclass(frozen=True)
class Taps:
    """One axis of one phase: which taps of the kernel it meets, in the order of a convolution, and its padding."""

    taps: tuple[int, ...]
    before: int
    after: int


def split_depthwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every depthwise ConvTranspose split that can be; the model is changed.

    Weights may be float constants or int8 constants behind a DequantizeLinear. The new nodes are called as the layer,
    `MARK` and a number. One whose output is no multiple of its stride, or would need cropping, stays as it is.
    """
    constants = {entry.name: entry for entry in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    } | {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    nodes: list[onnx.NodeProto] = []
    absorbed: set[str] = set()
    for node in model.graph.node:
        phases = _phases(node, constants, makers, shapes)
        if phases is None:
            if node.output[0] not in absorbed:
                nodes.append(node)
            continue
        chain = _chain(model, node, constants)
        absorbed |= {follower.output[0] for follower in chain}
        nodes += _interleaved(model, node, chain, phases, constants, makers)
    return set_nodes(model, nodes)


def layer_of(name: str) -> str:
    """The layer's own name for one of its parts."""
    return name.partition(MARK)[0]


def phase_taps(length: int, kernel: int, stride: int, pads: tuple[int, int]) -> list[Taps] | None:
    """How each phase of one axis of `length` reads the input, or None where convolutions cannot."""
    made = (length - 1) * stride + kernel - sum(pads)
    if made % stride:
        return None
    found = []
    for phase in range(stride):
        reach, first = divmod(phase + pads[0], stride)
        taps = tuple(range(first, kernel, stride))[::-1]
        before = len(taps) - 1 - reach
        after = made // stride - length - before + len(taps) - 1
        if not taps or before < 0 or after < 0:
            return None
        found.append(Taps(taps, before, after))
    return found


def _phases(
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    makers: dict[str, onnx.NodeProto],
    shapes: dict[str, list[int]],
) -> list[tuple[Taps, Taps]] | None:
    if node.op_type != "ConvTranspose":
        return None
    weight = _stored(node.input[1], constants, makers)
    shape, given = shapes.get(node.input[0]), {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if weight is None or shape is None or len(shape) != 4 or min(shape) < 1:
        return None
    group, stride, pads = given.get("group", 1), given.get("strides", [1, 1]), given.get("pads", [0, 0, 0, 0])
    plain = given.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in given
    if group == 1 or list(weight.dims[:2]) != [group, 1] or not plain or stride[0] != stride[1] or stride[0] == 1:
        return None
    if any(given.get("output_padding", [0, 0])) or any(hole != 1 for hole in given.get("dilations", [1, 1])):
        return None
    axes = [phase_taps(shape[2 + i], weight.dims[2 + i], stride[i], (pads[i], pads[2 + i])) for i in (0, 1)]
    return None if axes[0] is None or axes[1] is None else list(product(axes[0], axes[1]))


def _stored(
    name: str, constants: dict[str, onnx.TensorProto], makers: dict[str, onnx.NodeProto]
) -> onnx.TensorProto | None:
    """A layer's weights as they are stored."""
    if name in makers and makers[name].op_type == "DequantizeLinear":
        name = makers[name].input[0]
    return constants.get(name)


def _chain(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Clamp and rounding by constants that alone follow a layer."""
    outputs = {value.name for value in model.graph.output}
    chain: list[onnx.NodeProto] = []
    while True:
        made = (chain or [node])[-1].output[0]
        readers = [reader for reader in model.graph.node if made in reader.input]
        if made in outputs or len(readers) != 1 or readers[0].op_type not in FOLLOWING or readers[0].input[0] != made:
            return chain
        if any(name and name not in constants for name in readers[0].input[1:]):
            return chain
        chain.append(readers[0])


def _interleaved(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    chain: list[onnx.NodeProto],
    phases: list[tuple[Taps, Taps]],
    constants: dict[str, onnx.TensorProto],
    makers: dict[str, onnx.NodeProto],
) -> list[onnx.NodeProto]:
    weight = _stored(node.input[1], constants, makers)
    assert weight is not None
    values, new, results = numpy_helper.to_array(weight), [], []
    for number, (rows, columns) in enumerate(phases):
        name = f"{node.name}{MARK}{number}"
        taps = np.ascontiguousarray(values[:, :, list(rows.taps)][:, :, :, list(columns.taps)])
        model.graph.initializer.append(numpy_helper.from_array(taps, f"{name}.taps"))
        read = f"{name}.taps"
        if weight.name != node.input[1]:
            rounding = makers[node.input[1]]
            scaled = helper.make_node("DequantizeLinear", [read, *rounding.input[1:]], [f"{read}.float"], read, axis=0)
            new.append(scaled)
            read = f"{read}.float"
        pads = [rows.before, columns.before, rows.after, columns.after]
        kernel = [len(rows.taps), len(columns.taps)]
        inputs = [node.input[0], read, *node.input[2:]]
        new.append(helper.make_node("Conv", inputs, [name], name, group=len(values), pads=pads, kernel_shape=kernel))
        for follower in chain:
            made = f"{follower.output[0]}{MARK}{number}"
            copy = onnx.NodeProto.FromString(follower.SerializeToString())
            copy.input[0], copy.output[0], copy.name = new[-1].output[0], made, f"{follower.name}{MARK}{number}"
            new.append(copy)
        results.append(new[-1].output[0])
    stride = round(len(phases) ** 0.5)
    joined = f"{node.name}{MARK}s"
    last = (chain or [node])[-1].output[0]
    new.append(helper.make_node("Concat", results, [joined], joined, axis=1))
    new.append(
        helper.make_node("DepthToSpace", [joined], [last], f"{joined}.interleaved", blocksize=stride, mode="DCR")
    )
    return new
