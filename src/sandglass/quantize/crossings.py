"""Where integers end: the tensors that a target converts when one side of them runs in int8 and the other in float."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx

from sandglass.quantize.costs import Crossing
from sandglass.quantize.layers import CLAMPS, facts
from sandglass.quantize.spec import Spec


def crossings(model: onnx.ModelProto, spec: Spec, layers: Collection[str]) -> list[Crossing]:
    """Every tensor that one of `layers` reads, with its number of elements where its milliseconds will be.

    A tensor is made of integers where the layers behind it, through clamps and what integers flow through, are. On a
    target whose layers hand on none each converts what it reads for itself.
    """
    known = facts(model)
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    behind: dict[str, frozenset[str]] = {}
    for node in model.graph.node:
        made: frozenset[str] = frozenset()
        if node.name in known:
            made = frozenset({node.name})
        elif node.op_type in CLAMPS:
            made = behind.get(node.input[0], made)
        elif node.op_type in spec.between:
            parts = [behind[name] for name in node.input if name in behind]
            made = made.union(*parts) if all(parts) else made
        behind |= dict.fromkeys(node.output, made)
    readers: dict[str, set[str]] = {}
    for name, fact in known.items():
        if name in layers:
            readers.setdefault(fact.layer.input, set()).add(name)
    if not spec.hands_on:
        alone = [(name, tensor) for tensor, reading in readers.items() for name in reading]
        return [Crossing(frozenset(), frozenset({n}), float(math.prod(shapes.get(t, [0]))), False) for n, t in alone]
    return [
        Crossing(
            behind.get(tensor, frozenset()),
            frozenset(reading),
            float(math.prod(shapes.get(tensor, [0]))),
            bool(spec.between),
        )
        for tensor, reading in readers.items()
    ]
