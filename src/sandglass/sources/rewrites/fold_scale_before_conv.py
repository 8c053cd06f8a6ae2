"""Fold a scale and a shift before convolutions, one number for all channels, into their weights and biases.

PaddleOCR's networks have both after every activation: s * h + b = s * (h + b / s). If only convolutions read the
result, their weights take the scale. Their biases take the shift if none of them has padding; the zeros of a padding
are not shifted.
"""

from __future__ import annotations

import numpy as np
import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.layer_edits import add_to_bias
from sandglass.graph.layers import fact_of
from sandglass.sources.rewrites import Stage

STAGE: Stage = "simplified"
AFTER: tuple[str, ...] = ("hard_swish",)  # its scale of 1/6 is part of the operator


def rewrite(model: onnx.ModelProto) -> None:
    """Fold each Mul by a number, and an Add of a number after it, whose result only convolutions read, in place.

    Nothing is folded into convolutions that share constants with other nodes.
    """
    with GraphIndex(model) as graph:
        for node in reversed(graph):  # of two scales in a row, the later one first
            if factor := _number(graph, node, "Mul"):
                _fold(graph, node, factor)


def _fold(graph: GraphIndex, scaling: onnx.NodeProto, factor: float) -> None:
    adding = graph.only_consumer(scaling.output[0], "Add")
    term = _number(graph, adding, "Add") if adding is not None else None
    last = scaling if adding is None or term is None else adding
    layers = graph.consumers(last.output[0])
    inner = not graph.outputs.isdisjoint([scaling.output[0], last.output[0]])
    if inner or not layers or not all(_takes(graph, layer, last.output[0]) for layer in layers):
        return
    data = next(name for name in scaling.input if name not in graph.constants)
    facts = [fact_of(layer, graph.constants[layer.input[1]].dims) for layer in layers]
    stays = term is not None and any(any(fact.pads) or not fact.explicit for fact in facts)
    for layer, fact in zip(layers, facts, strict=True):
        weight = graph.constant(layer.input[1])
        if term is not None and not stays:
            sums = weight.reshape(len(weight), -1).sum(1, dtype=np.float64)
            add_to_bias(graph, layer, fact.channels, term * sums)
        graph.set_constant(layer.input[1], weight * np.float32(factor))
        if not stays:
            graph.set_input(layer, 0, data)
    if stays and term is not None:
        shifted = graph.add_constant(f"{last.name}.term", np.array(term / factor, np.float32))
        graph.set_inputs(last, [data, shifted])
    elif last is not scaling:
        graph.remove(last)
    graph.remove(scaling)


def _number(graph: GraphIndex, node: onnx.NodeProto, operator: str) -> float | None:
    """The number that a node multiplies by or adds to all elements; None for another node."""
    constants = [name for name in node.input if name in graph.constants]
    return graph.number(constants[0]) if node.op_type == operator and len(constants) == 1 else None


def _takes(graph: GraphIndex, layer: onnx.NodeProto, tensor: str) -> bool:
    """Whether a node is a convolution of the tensor with constants that no other node reads."""
    constants = [name for name in layer.input[1:] if name]
    own = all(name in graph.constants and graph.read_once(name) for name in constants)
    return layer.op_type == "Conv" and own and layer.input[0] == tensor
