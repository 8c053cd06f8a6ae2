"""Depthwise layers that add in a known order: the bias first, then tap after tap, each rounded once.

In float the order of a sum decides its last bit. This one is that of ncnn's kernels, which take four channels or more
at once (those for just four, and neither 3x3 nor 5x5, round each product too, which is not shown here). ONNX Runtime's
own depthwise kernels add the bias last. Its matrix product, though, adds along the inner dimension one after the other,
with instructions that multiply and add at once. A grouped convolution of two channels, led by one of ones that brings
the bias in, is such a product. (A single channel would be a product with one row, which has a kernel of its own.)
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sandglass.graph.io import set_nodes
from sandglass.graph.layers import Facts, fact_of
from sandglass.graph.names import Names
from sandglass.lowering.transposed_conv import split_depthwise

TOGETHER = 2
PACKED = 4  # ncnn keeps the order where channels come in packs of as many
BLOCK = 128  # a longer inner dimension is added up in blocks


def tap_by_tap(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with depthwise convolutions in float, transposed ones too, that add in order; the model is changed.

    The arithmetic is the same but for the last bits. What has no constant weights and bias, dilation, or a padding as
    wide as its kernel stays as it is.
    """
    model = split_depthwise(model)
    constants, names = {entry.name: entry for entry in model.graph.initializer}, Names(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        given = [name for name in node.input[1:] if name]
        if node.op_type == "Conv" and all(name in constants for name in given):
            weight, *bias = (constants[name] for name in given)
            nodes += _ordered(model, names, node, fact_of(node, weight.dims), weight, *bias)
        else:
            nodes.append(node)
    return set_nodes(model, nodes)


def _can_be_ordered(fact: Facts) -> bool:
    if not (fact.depthwise and fact.explicit and fact.channels == fact.group and len(fact.shape) == 4):
        return False
    inside = all(fact.pads[i] + fact.pads[2 + i] < fact.shape[2 + i] for i in (0, 1))
    fits = (TOGETHER + 1) * prod(fact.shape[2:]) <= BLOCK
    return inside and fits and fact.group % PACKED == 0 and set(fact.dilation) == {1}


def _ordered(
    model: onnx.ModelProto,
    names: Names,
    node: onnx.NodeProto,
    fact: Facts,
    stored: TensorProto,
    bias: TensorProto | None = None,
) -> list[onnx.NodeProto]:
    """Nodes that make what a layer does: the ones before each group's channels, and their convolution."""
    if not _can_be_ordered(fact):
        return [node]
    groups, name = fact.group // TOGETHER, names.fresh(f"{node.name}.taps")
    filters = numpy_helper.to_array(stored).reshape(groups, TOGETHER, *fact.shape[2:])
    weight = np.zeros((groups, TOGETHER, TOGETHER + 1, *fact.shape[2:]), np.float32)
    for i in range(TOGETHER):
        weight[:, i, 1 + i] = filters[:, i]
    if bias is not None:
        top, left = fact.pads[:2]  # a tap that never meets the padding
        weight[:, :, 0, top, left] = numpy_helper.to_array(bias).reshape(groups, TOGETHER)
    places = np.zeros((groups, TOGETHER + 1), np.int64)
    places[:, 1:] = 1 + np.arange(fact.group).reshape(groups, TOGETHER)
    added = {
        "weights": weight.reshape(fact.group, TOGETHER + 1, *fact.shape[2:]),
        "before": np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64),
        "one": np.array(1, np.float32),
        "places": places.ravel(),
    }
    for kind, values in added.items():
        model.graph.initializer.append(numpy_helper.from_array(values, f"{name}.{kind}"))
    convolution = onnx.NodeProto.FromString(node.SerializeToString())
    convolution.input[:] = [f"{name}.grouped", f"{name}.weights"]
    next(attribute for attribute in convolution.attribute if attribute.name == "group").i = groups
    return [
        helper.make_node("Pad", [node.input[0], f"{name}.before", f"{name}.one"], [f"{name}.ones"], f"{name}.ones"),
        helper.make_node("Gather", [f"{name}.ones", f"{name}.places"], [f"{name}.grouped"], f"{name}.grouped", axis=1),
        convolution,
    ]
