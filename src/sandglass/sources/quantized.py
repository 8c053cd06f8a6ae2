"""Graphs that are quantized already: find them, and change them so that all runtimes can load them."""

from __future__ import annotations

import onnx

from sandglass.graph.index import GraphIndex

PARTS = ("quantize", "qlinear", "integer", "qgemm", "qattention", "nbits")  # in lower-case names of operators


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether an operator of the graph reads or writes quantized integers."""
    return any(map(reads_integers, model.graph.node))


def reads_integers(node: onnx.NodeProto) -> bool:
    """Whether a node reads or writes quantized integers."""
    return any(part in node.op_type.lower() for part in PARTS)


def own_grids(model: onnx.ModelProto) -> None:
    """Give each node that reads integer weights its own constants, in place.

    ONNX Runtime may convert signed weights and their zero points to unsigned ones. It does not load a graph in which
    other nodes read the same constants.
    """
    with GraphIndex(model) as graph:
        for node in filter(reads_integers, graph):
            pair = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            if pair and node.input[0] not in graph.constants:
                continue
            for i, name in enumerate(list(node.input)):
                if name in graph.constants and not graph.read_once(name):
                    graph.set_input(node, i, graph.copy_constant(f"{name}.own", graph.constants[name]))
