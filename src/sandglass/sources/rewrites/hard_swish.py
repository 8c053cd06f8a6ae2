"""Replace hard swish, x * min(max(x + 3, 0), 6) / 6, which exporters write as four nodes, by the operator HardSwish.

Even a runtime without a kernel for HardSwish then reads the tensor twice instead of four times.
"""

from __future__ import annotations

import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.sources.rewrites import Stage

STAGE: Stage = "simplified"
AFTER: tuple[str, ...] = ("node_names",)  # the operator takes the name of the last node


def rewrite(model: onnx.ModelProto) -> None:
    """Replace each group of these nodes by a HardSwish, in place, unless another node reads a tensor in the group."""
    with GraphIndex(model) as graph:
        for node in graph:
            if data := _swished(graph, node):
                graph.replace(node, [helper.make_node("HardSwish", [data], [node.output[0]], node.name)])


def _swished(graph: GraphIndex, node: onnx.NodeProto) -> str:
    """The x of a node that ends a hard swish, x * gate / 6 or x * (gate / 6); otherwise ""."""
    if node.op_type == "Mul":
        for x, gate in (node.input, node.input[::-1]):
            if _is_gate(graph, _divided(graph, graph.producer(gate)), x):
                return str(x)
    product = _inner(graph, _divided(graph, node), "Mul")
    if product is not None:
        for x, gate in (product.input, product.input[::-1]):
            if _is_gate(graph, gate, x):
                return str(x)
    return ""


def _inner(graph: GraphIndex, tensor: str, operator: str) -> onnx.NodeProto | None:
    """The node with this operator that produces a tensor, if the tensor is read only once."""
    return graph.producer(tensor, operator) if graph.read_once(tensor) else None


def _divided(graph: GraphIndex, node: onnx.NodeProto | None) -> str:
    """The tensor that a node divides by 6; otherwise ""."""
    if node is None or node.op_type not in ("Mul", "Div"):
        return ""
    data, value = _with_number(graph, node)
    right = value is not None and abs(value - (6 if node.op_type == "Div" else 1 / 6)) < 1e-6
    return data if right else ""


def _is_gate(graph: GraphIndex, tensor: str, x: str) -> bool:
    """Whether a tensor is x + 3, clipped to 0 .. 6, and read only once."""
    clip = _inner(graph, tensor, "Clip")
    if clip is None or [graph.number(name) for name in clip.input[1:]] != [0, 6]:
        return False
    added = _inner(graph, clip.input[0], "Add")
    return added is not None and _with_number(graph, added) == (x, 3)


def _with_number(graph: GraphIndex, node: onnx.NodeProto) -> tuple[str, float | None]:
    """The tensor and the number that are the two inputs of a node; the number of a Div is its second input."""
    first, second = node.input
    if graph.number(second) is None and node.op_type != "Div":
        first, second = second, first
    return first, graph.number(second)
