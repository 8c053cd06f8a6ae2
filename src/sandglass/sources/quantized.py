"""Graphs that are quantized already: recognized, and made loadable everywhere."""

from __future__ import annotations

from collections import Counter

import onnx

from sandglass.graph.names import Names

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
    constants, names = {entry.name: entry for entry in model.graph.initializer}, Names(model)
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        pair = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if not reads_integers(node) or (pair and node.input[0] not in constants):
            continue
        for i, name in enumerate(node.input):
            if name in constants and uses[name] > 1:
                own = onnx.TensorProto.FromString(constants[name].SerializeToString())
                node.input[i] = own.name = names.fresh(f"{name}.own")
                model.graph.initializer.append(own)
