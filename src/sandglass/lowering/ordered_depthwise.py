"""Depthwise layers that add in a fixed order: the bias first, then one tap of the kernel after the other.

The order of a sum of floats decides its last bit. The order here is that of ncnn's kernels for four channels or more,
which round once for each tap. (The kernels for exactly four channels that are neither 3x3 nor 5x5 also round each
product, which is not modelled here.) The depthwise kernels of ONNX Runtime add the bias last. But its matrix product
adds along the inner dimension in order, with instructions that multiply and add at once. So a depthwise layer is
written as a grouped convolution that becomes such a product. A group has three input channels: one of ones, whose
weight is the bias, and two channels of the layer. (With one channel the product would have one row, and ONNX Runtime
has a different kernel for that.)
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

TOGETHER = 2  # channels of the layer in a group
PACKED = 4  # channels in a pack of ncnn: it adds in this order if the number of channels is a multiple
BLOCK = 128  # length of the inner dimension above which ONNX Runtime adds in blocks


def tap_by_tap(model: onnx.ModelProto) -> None:
    """Let depthwise convolutions in float, including transposed ones, add in order. Changes the model.

    The results are the same up to the last bits. A layer stays as it is if it has dilation, a padding as wide as its
    kernel, or weights or a bias that are computed.
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
    """The nodes that replace a layer: a channel of ones before the channels of each group, and the convolution."""
    groups, name = fact.group // TOGETHER, graph.fresh(f"{node.name}.taps")
    places = np.zeros((groups, TOGETHER + 1), np.int64)  # channel 0 of the padded input is the ones
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
    """The weights of the grouped convolution, (channels, TOGETHER + 1, height, width); the first input has the bias."""
    groups = fact.group // TOGETHER
    stored, *bias = (graph.constant(name) for name in node.input[1:] if name)
    weight = np.zeros((groups, TOGETHER, TOGETHER + 1, *fact.shape[2:]), np.float32)
    filters = stored.reshape(groups, TOGETHER, *fact.shape[2:])
    for i in range(TOGETHER):
        weight[:, i, 1 + i] = filters[:, i]
    if bias:
        top, left = fact.pads[:2]  # the tap that never reads the padding, so that it always reads a one
        weight[:, :, 0, top, left] = bias[0].reshape(groups, TOGETHER)
    return weight.reshape(fact.group, TOGETHER + 1, *fact.shape[2:])
