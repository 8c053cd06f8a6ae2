"""Replace Constant nodes by initializers, so that constants have a single form."""

from __future__ import annotations

import onnx

from sandglass.graph.edit import set_nodes
from sandglass.sources.rewrites import Stage

STAGE: Stage = "converted"  # the conversion to the opset adds Constant nodes
AFTER: tuple[str, ...] = ()


def rewrite(model: onnx.ModelProto) -> None:
    """Turn every Constant node that holds a tensor into an initializer."""
    others = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            weight = model.graph.initializer.add()
            weight.CopyFrom(node.attribute[0].t)
            weight.name = node.output[0]
        else:
            others.append(node)
    if len(others) < len(model.graph.node):
        set_nodes(model, others)
