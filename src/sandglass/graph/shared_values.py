"""Tensors that hold the values of others: results of MaxPool, Resize to the nearest, and Concat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx
from onnx import helper


def moves(node: onnx.NodeProto) -> bool:
    """Whether what a node makes are values of its first input, as they were."""
    modes = [helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "mode"]
    return node.op_type == "MaxPool" or (node.op_type == "Resize" and modes in ([], [b"nearest"]))


def carriers(model: onnx.ModelProto, tensors: Collection[str]) -> dict[str, str]:
    """For each of `tensors` the one that stands for all with the same values, perhaps itself.

    A part of a Concat has them too, but where others read it: these read it on a grid of its own.
    """
    outputs = {value.name for value in model.graph.output}
    read = Counter(name for node in model.graph.node for name in node.input)
    stands = {name: name for name in tensors}
    for node in model.graph.node:
        made, parts = node.output[0], node.input[:1] if moves(node) else []
        if node.op_type == "Concat":
            parts = [name for name in node.input if read[name] == 1 and name not in outputs]
        for name in parts:
            if name in stands and made in stands:
                before, after = stands[name], stands[made]
                stands = {key: after if value == before else value for key, value in stands.items()}
    return stands
