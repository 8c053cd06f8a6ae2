"""Rounding before MaxPool and Resize to the nearest pixel, which only move values: the result is the same.

Integers move faster than floats, there are fewer values before a Resize, and a layer can write the integers itself.
"""

from __future__ import annotations

import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.shared_values import moves


def round_early(model: onnx.ModelProto) -> None:
    """Move QuantizeLinear and DequantizeLinear to before the nodes that move their values. Changes the model.

    Such a node must be the only reader of its input. For a Resize this is not needed, because it has fewer values to
    round at its input.
    """
    with GraphIndex(model) as graph:
        for node in filter(moves, reversed(graph)):
            quantize = graph.only_consumer(node.output[0], "QuantizeLinear")
            dequantize = graph.only_consumer(quantize.output[0], "DequantizeLinear") if quantize is not None else None
            alone = node.op_type == "Resize" or graph.only_consumer(node.input[0]) is not None
            if quantize is not None and dequantize is not None and alone:
                _move_before(graph, node, quantize, dequantize)


def _move_before(graph: GraphIndex, node: onnx.NodeProto, quantize: onnx.NodeProto, dequantize: onnx.NodeProto) -> None:
    """Move the pair of rounding nodes after a node to before it: x -> node -> pair becomes x -> pair -> node."""
    for part in (quantize, dequantize):
        graph.remove(part)
        graph.insert_before(node, [part])
    graph.set_input(quantize, 0, node.input[0])
    early, rounded = graph.fresh(f"{node.output[0]}.early"), dequantize.output[0]
    graph.set_output(dequantize, 0, early)
    graph.set_input(node, 0, early)
    graph.set_output(node, 0, rounded)
