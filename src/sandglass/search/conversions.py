"""The tensors that a target converts between int8 and float, because layers on their two sides differ in precision."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx

from sandglass.graph.layers import CLAMPS, Facts, facts
from sandglass.graph.shapes import inferred_shapes
from sandglass.quantization.spec import Spec
from sandglass.search.costs import Boundary


def boundaries(model: onnx.ModelProto, spec: Spec, layers: Collection[str]) -> dict[Boundary, int]:
    """The boundary at each tensor that one of `layers` reads, with the tensor's number of elements.

    If the time of a layer includes the conversion of its input (`spec.timed_converting`), each layer has a boundary of
    its own.
    """
    layer_facts = facts(model)
    shapes = inferred_shapes(model)
    inputs = {name: fact.layer.input for name, fact in layer_facts.items() if name in layers}
    elements = {tensor: math.prod(shapes.get(tensor, (0,))) for tensor in inputs.values()}
    if spec.timed_converting:
        return {Boundary(frozenset(), frozenset({name}), False): elements[t] for name, t in inputs.items()}
    # All layers that read a tensor share its conversion.
    makers = _integer_makers(model, spec, layer_facts, shapes)
    readers: dict[str, set[str]] = {}
    for name, tensor in inputs.items():
        readers.setdefault(tensor, set()).add(name)
    return {
        Boundary(makers.get(tensor, frozenset()), frozenset(names), bool(spec.between)): elements[tensor]
        for tensor, names in readers.items()
    }


def _integer_makers(
    model: onnx.ModelProto, spec: Spec, layer_facts: Mapping[str, Facts], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, frozenset[str]]:
    """For each tensor the layers from whose integers it can be computed; empty if it is always computed in float.

    Integers pass through clamps, which belong to their layer, and through the operators in `spec.between` if all terms
    are integers: a sum of the results of two layers has both layers as makers.
    """
    makers: dict[str, frozenset[str]] = {}
    for node in model.graph.node:
        node_makers: frozenset[str] = frozenset()
        if node.name in layer_facts:
            node_makers = frozenset({node.name})
        elif node.op_type in CLAMPS:
            node_makers = makers.get(node.input[0], node_makers)
        elif node.op_type in spec.between:  # constants have no entry in `makers` and do not count as terms
            terms = [makers[name] for name in node.input if name in makers and not _is_broadcast(name, node, shapes)]
            node_makers = node_makers.union(*terms) if all(terms) else node_makers
        makers |= dict.fromkeys(node.output, node_makers)
    return makers


def _is_broadcast(tensor: str, node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a term is broadcast to a larger output, such as one factor for each channel: its conversion is free."""
    size, output_size = (math.prod(shapes.get(name, (0,))) for name in (tensor, node.output[0]))
    return node.op_type in ("Add", "Mul") and size < output_size
