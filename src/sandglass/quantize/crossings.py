"""Where integers end: the tensors that a target converts when one side of them runs in int8 and the other in float."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx

from sandglass.quantize.layers import CLAMPS, facts
from sandglass.quantize.search import Crossing
from sandglass.quantize.spec import Spec


def crossings(model: onnx.ModelProto, spec: Spec, layers: Collection[str]) -> list[Crossing]:
    """Every tensor that one of `layers` reads, with its number of elements where its milliseconds will be.

    A tensor is made of integers where the layers behind it, through clamps and what integers flow through, are.
    """
    known = facts(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*onnx.shape_inference.infer_shapes(model).graph.value_info, *model.graph.input)
    }
    behind: dict[str, frozenset[str]] = {}

    def sources(tensor: str) -> frozenset[str]:
        if tensor not in behind:
            node = makers.get(tensor)
            behind[tensor] = frozenset()
            if node is not None and node.name in known:
                behind[tensor] = frozenset({node.name})
            elif node is not None and node.op_type in CLAMPS:
                behind[tensor] = sources(node.input[0])
            elif node is not None and node.op_type in spec.between:
                parts = [sources(name) for name in node.input if name in makers]
                behind[tensor] = frozenset().union(*parts) if all(parts) else frozenset()
        return behind[tensor]

    readers: dict[str, set[str]] = {}
    for name, fact in known.items():
        if name in layers:
            readers.setdefault(fact.layer.input, set()).add(name)
    return [
        Crossing(sources(tensor), frozenset(reading), float(math.prod(shapes.get(tensor, [0]))), bool(spec.between))
        for tensor, reading in readers.items()
    ]
