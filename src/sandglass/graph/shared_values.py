"""Tensors that hold the values of other tensors: the outputs of MaxPool, Concat, and Resize to the nearest pixel."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import attributes_of


def moves(node: onnx.NodeProto) -> bool:
    """Whether the output of a node has only unchanged values of its first input."""
    nearest = node.op_type == "Resize" and attributes_of(node).get("mode", "nearest") == "nearest"
    return node.op_type == "MaxPool" or nearest


def carriers(model: onnx.ModelProto, tensors: Collection[str]) -> dict[str, str]:
    """For each of `tensors` the tensor that stands for its group of equal values, which may be the tensor itself.

    An input of a Concat belongs to the group of the output only if no other node reads it: other readers need it with a
    range of its own.
    """
    graph = GraphIndex(model)
    stands = {name: name for name in tensors}

    def representative(name: str) -> str:
        while stands[name] != name:
            name = stands[name]
        return name

    for node in graph:
        output, parts = node.output[0], list(node.input[:1]) if moves(node) else []
        if node.op_type == "Concat":
            parts = [name for name in node.input if graph.read_once(name)]
        for name in parts:
            if name in stands and output in stands:
                stands[representative(name)] = representative(output)
    return {name: representative(name) for name in tensors}
