"""Rounding before what only moves values about, MaxPool and Resize to the nearest: the result is the same.

Integers are moved faster than floats, there are fewer of them before a Resize, and a layer can make them by itself.
"""

from __future__ import annotations

import onnx

from sandglass.graph.io import set_nodes, sole_reader
from sandglass.graph.names import Names
from sandglass.graph.shared_values import moves
from sandglass.lowering.transposed_conv import ROUNDING


def round_early(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each rounding pair moved before the nodes that move its values about; the model is changed.

    Those nodes have to be all that read the values, but for Resize, which makes more of them.
    """
    nodes, names = {node.name: node for node in model.graph.node}, Names(model)
    order = list(nodes)
    for node in filter(moves, reversed(model.graph.node)):
        source, made = node.input[0], node.output[0]
        quantize = sole_reader(model, made)
        dequantize = sole_reader(model, quantize.output[0]) if quantize is not None else None
        if quantize is None or dequantize is None or (quantize.op_type, dequantize.op_type) != ROUNDING:
            continue
        if sole_reader(model, source) is None and node.op_type != "Resize":
            continue
        quantize.input[0], node.output[0] = source, dequantize.output[0]
        node.input[0] = dequantize.output[0] = names.fresh(f"{made}.early")
        for name in (quantize.name, dequantize.name):
            order.remove(name)
            order.insert(order.index(node.name), name)
    return set_nodes(model, [nodes[name] for name in order])
