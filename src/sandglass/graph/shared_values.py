"""Tensors that hold the values of others: results of MaxPool, Resize to the nearest, and Concat."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import attributes_of


def moves(node: onnx.NodeProto) -> bool:
    """Whether what a node makes are values of its first input, as they were."""
    nearest = node.op_type == "Resize" and attributes_of(node).get("mode", "nearest") == "nearest"
    return node.op_type == "MaxPool" or nearest


def carriers(model: onnx.ModelProto, tensors: Collection[str]) -> dict[str, str]:
    """For each of `tensors` the one that stands for all with the same values, perhaps itself.

    A part of a Concat has them too, but where others read it: these read it on a grid of its own.
    """
    graph = GraphIndex(model)
    stands = {name: name for name in tensors}

    def representative(name: str) -> str:
        while stands[name] != name:
            name = stands[name]
        return name

    for node in graph:
        made, parts = node.output[0], list(node.input[:1]) if moves(node) else []
        if node.op_type == "Concat":
            parts = [name for name in node.input if graph.read_once(name)]
        for name in parts:
            if name in stands and made in stands:
                stands[representative(name)] = representative(made)
    return {name: representative(name) for name in tensors}
