"""Where integers end: the tensors that a target converts when one side of them runs in int8 and the other in float."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx

from sandglass.graph.layers import CLAMPS, facts
from sandglass.graph.shapes import inferred_shapes
from sandglass.quantization.spec import Spec
from sandglass.search.costs import Crossing


def crossings(model: onnx.ModelProto, spec: Spec, layers: Collection[str]) -> list[Crossing]:
    """Every tensor that one of `layers` reads, with its number of elements where its milliseconds will be.

    A tensor is made of integers where the layers behind it, through clamps and what integers flow through, are. Where
    layers are timed converting each has an entry of its own.
    """
    known = facts(model)
    shapes = inferred_shapes(model)
    read = {name: fact.layer.input for name, fact in known.items() if name in layers}
    elements = {tensor: float(math.prod(shapes.get(tensor, (0,)))) for tensor in read.values()}
    if spec.timed_converting:
        return [Crossing(frozenset(), frozenset({name}), elements[tensor], False) for name, tensor in read.items()]

    def small(name: str, node: onnx.NodeProto) -> bool:
        """Whether a tensor is spread over what a node makes, so that converting it costs nothing: a channel's gate."""
        sizes = [math.prod(shapes.get(tensor, (0,))) for tensor in (name, node.output[0])]
        return node.op_type in ("Add", "Mul") and sizes[0] < sizes[1]

    behind: dict[str, frozenset[str]] = {}
    for node in model.graph.node:
        made: frozenset[str] = frozenset()
        if node.name in known:
            made = frozenset({node.name})
        elif node.op_type in CLAMPS:
            made = behind.get(node.input[0], made)
        elif node.op_type in spec.between:
            parts = [behind[name] for name in node.input if name in behind and not small(name, node)]
            made = made.union(*parts) if all(parts) else made
        behind |= dict.fromkeys(node.output, made)
    readers: dict[str, set[str]] = {}
    for name, tensor in read.items():
        readers.setdefault(tensor, set()).add(name)
    return [
        Crossing(behind.get(tensor, frozenset()), frozenset(reading), elements[tensor], bool(spec.between))
        for tensor, reading in readers.items()
    ]
