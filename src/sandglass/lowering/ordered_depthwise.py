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
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.layers import Facts, fact_of
from sandglass.graph.nodes import changed_node
from sandglass.lowering.transposed_conv import split_depthwise

TOGETHER = 2
PACKED = 4  # ncnn keeps the order where channels come in packs of as many
BLOCK = 128  # a longer inner dimension is added up in blocks


def tap_by_tap(model: onnx.ModelProto) -> None:
    """Let depthwise convolutions in float, transposed ones too, add in order.

    The arithmetic is the same but for the last bits. What has no constant weights and bias, dilation, or a padding as
    wide as its kernel stays as it is.
    """
    split_depthwise(model)
    with GraphIndex(model) as graph:
        for node in graph:
            if node.op_type == "Conv" and all(name in graph.constants for name in node.input[1:] if name):
                fact = fact_of(node, graph.constants[node.input[1]].dims)
                if _can_be_ordered(fact):
                    graph.replace(node, _ordered(graph, node, fact))


def _can_be_ordered(fact: Facts) -> bool:
    if not (fact.depthwise and fact.explicit and fact.channels == fact.group and len(fact.shape) == 4):
        return False
    inside = all(fact.pads[i] + fact.pads[2 + i] < fact.shape[2 + i] for i in (0, 1))
    fits = (TOGETHER + 1) * prod(fact.shape[2:]) <= BLOCK
    return inside and fits and fact.group % PACKED == 0 and set(fact.dilation) == {1}


def _ordered(graph: GraphIndex, node: onnx.NodeProto, fact: Facts) -> list[onnx.NodeProto]:
    """Nodes that make what a layer does: the ones before each group's channels, and their convolution."""
    groups, name = fact.group // TOGETHER, graph.fresh(f"{node.name}.taps")
    places = np.zeros((groups, TOGETHER + 1), np.int64)
    places[:, 1:] = 1 + np.arange(fact.group).reshape(groups, TOGETHER)
    constants = {
        "weights": _with_bias(graph, node, fact),
        "before": np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64),
        "one": np.array(1, np.float32),
        "places": places.ravel(),
    }
    weights, before, one, order = (graph.add_constant(f"{name}.{part}", values) for part, values in constants.items())
    ones, grouped = graph.fresh(f"{name}.ones"), graph.fresh(f"{name}.grouped")
    return [
        helper.make_node("Pad", [node.input[0], before, one], [ones], ones),
        helper.make_node("Gather", [ones, order], [grouped], grouped, axis=1),
        changed_node(node, [grouped, weights], group=groups),
    ]


def _with_bias(graph: GraphIndex, node: onnx.NodeProto, fact: Facts) -> np.ndarray:
    """Weights of the grouped convolution, (channels, TOGETHER + 1, height, width): its first input brings the bias."""
    groups = fact.group // TOGETHER
    stored, *bias = (graph.constant(name) for name in node.input[1:] if name)
    weight = np.zeros((groups, TOGETHER, TOGETHER + 1, *fact.shape[2:]), np.float32)
    filters = stored.reshape(groups, TOGETHER, *fact.shape[2:])
    for i in range(TOGETHER):
        weight[:, i, 1 + i] = filters[:, i]
    if bias:
        top, left = fact.pads[:2]  # a tap that never meets the padding
        weight[:, :, 0, top, left] = bias[0].reshape(groups, TOGETHER)
    return weight.reshape(fact.group, TOGETHER + 1, *fact.shape[2:])
