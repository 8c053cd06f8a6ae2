"""Operators that ONNX does not define. Their shapes are unknown, and backends usually do not support them."""

from __future__ import annotations

import onnx


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """The names of operators without a definition in ONNX, with their domain if they have one, sorted."""
    local = {(function.domain, function.name) for function in model.functions}
    names = {
        f"{node.domain}.{node.op_type}".removeprefix(".")
        for node in model.graph.node
        if (node.domain, node.op_type) not in local
        and not onnx.defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain)
    }
    return sorted(names)
