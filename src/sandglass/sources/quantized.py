"""Graphs that are quantized already: recognized, and made loadable everywhere."""

from __future__ import annotations

import onnx

from sandglass.graph.index import GraphIndex

PARTS = ("quantize", "qlinear", "integer", "qgemm", "qattention", "nbits")  # of operators' names, in lower case


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether an operator of the graph reads or makes quantized integers."""
    return any(map(reads_integers, model.graph.node))


def reads_integers(node: onnx.NodeProto) -> bool:
    """Whether a node reads or makes quantized integers."""
    return any(part in node.op_type.lower() for part in PARTS)


def own_grids(model: onnx.ModelProto) -> None:
    """Give each node that reads integer weights constants that no other node reads, in place.

    ONNX Runtime may rewrite signed weights as unsigned ones, with their zero points, and does not load a graph in which
    others read these.
    """
    with GraphIndex(model) as graph:
        for node in filter(reads_integers, graph):
            pair = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            if pair and node.input[0] not in graph.constants:
                continue
            for i, name in enumerate(list(node.input)):
                if name in graph.constants and not graph.read_once(name):
                    graph.set_input(node, i, graph.copy_constant(f"{name}.own", graph.constants[name]))
