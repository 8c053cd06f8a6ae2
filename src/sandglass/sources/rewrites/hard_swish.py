"""Hard swish, x * min(max(x + 3, 0), 6) / 6, written out by exporters in four nodes, as the one operator that it is."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import helper

from sandglass.graph.io import drop_unread, number, set_nodes


def fuse_hard_swish(model: onnx.ModelProto) -> None:
    """Put a HardSwish in place of every such group that nobody else reads from, in place.

    A runtime without a kernel of its own for it passes over the tensor twice instead of four times.
    """
    found = _Finder(model)
    nodes = []
    for node in model.graph.node:
        data = found.swished(node)
        nodes.append(helper.make_node("HardSwish", [data], [node.output[0]], node.name) if data else node)
    drop_unread(set_nodes(model, nodes))


class _Finder:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.uses.update(value.name for value in model.graph.output)

    def swished(self, node: onnx.NodeProto) -> str:
        """The x of a node that ends a hard swish, x * gate / 6 or x * (gate / 6), else ""."""
        if node.op_type == "Mul":
            for x, gate in (node.input, node.input[::-1]):
                if self._opens(self._behind(self._sixth(self.makers.get(gate))), x):
                    return str(x)
        product = self._behind(self._sixth(node))
        if product is not None and product.op_type == "Mul":
            for x, gate in (product.input, product.input[::-1]):
                if self._opens(self._behind(gate), x):
                    return str(x)
        return ""

    def _behind(self, name: str | None) -> onnx.NodeProto | None:
        """What makes a tensor that has one reader."""
        return self.makers.get(name) if name and self.uses[name] == 1 else None

    def _sixth(self, node: onnx.NodeProto | None) -> str | None:
        """The tensor that a node divides by 6."""
        if node is None or node.op_type not in ("Mul", "Div"):
            return None
        data, value = self._constant(node)
        right = value is not None and abs(value - (6 if node.op_type == "Div" else 1 / 6)) < 1e-6
        return data if right else None

    def _opens(self, clip: onnx.NodeProto | None, x: str) -> bool:
        """Whether a node clips x + 3 to 0 .. 6."""
        if clip is None or clip.op_type != "Clip":
            return False
        if [number(self.constants, name) for name in clip.input[1:]] != [0, 6]:
            return False
        added = self._behind(clip.input[0])
        return added is not None and added.op_type == "Add" and self._constant(added) == (x, 3)

    def _constant(self, node: onnx.NodeProto) -> tuple[str, float | None]:
        """The tensor and the number that a node of two inputs joins; a Div's number is its second."""
        first, second = node.input
        if number(self.constants, second) is None and node.op_type != "Div":
            first, second = second, first
        return first, number(self.constants, second)
