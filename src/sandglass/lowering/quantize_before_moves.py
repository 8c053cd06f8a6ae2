"""Rounding before nodes that only move values, MaxPool and Resize to the nearest: the result is the same.

Integers are moved faster than floats, there are fewer of them before a Resize, and a layer can make them by itself.
"""

from __future__ import annotations

import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.shared_values import moves


def round_early(model: onnx.ModelProto) -> None:
    """Move each rounding pair before the nodes that move its values.

    Those nodes have to be all that read the values; not so for a Resize, which makes more of them.
    """
    with GraphIndex(model) as graph:
        for node in filter(moves, reversed(graph)):
            made = node.output[0]
            quantize = graph.only_consumer(made, "QuantizeLinear")
            dequantize = graph.only_consumer(quantize.output[0], "DequantizeLinear") if quantize is not None else None
            alone = node.op_type == "Resize" or graph.only_consumer(node.input[0]) is not None
            if quantize is not None and dequantize is not None and alone:
                _move_before(graph, node, quantize, dequantize)


def _move_before(graph: GraphIndex, node: onnx.NodeProto, quantize: onnx.NodeProto, dequantize: onnx.NodeProto) -> None:
    """Put a rounding pair that follows a node before it: x -> node -> pair becomes x -> pair -> node."""
    for part in (quantize, dequantize):
        graph.remove(part)
        graph.insert_before(node, [part])
    graph.set_input(quantize, 0, node.input[0])
    early, rounded = graph.fresh(f"{node.output[0]}.early"), dequantize.output[0]
    graph.set_output(dequantize, 0, early)
    graph.set_input(node, 0, early)
    graph.set_output(node, 0, rounded)
