"""Operators that ONNX does not define, of which no shape is known and which no backend can be expected to have."""

from __future__ import annotations

import onnx


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """Names, with their domain where it is not ONNX's own, of operators without a definition, in the graph's order."""
    local = {(function.domain, function.name) for function in model.functions}
    found = {
        f"{node.domain}.{node.op_type}".removeprefix(".")
        for node in model.graph.node
        if (node.domain, node.op_type) not in local
        and not onnx.defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain)
    }
    return sorted(found)
