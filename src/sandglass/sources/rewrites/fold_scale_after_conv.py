"""Fold a scale and a shift after a convolution, for all channels or for each, into its weights and bias.

PaddleOCR's networks have both after every convolution. They cost as much time as a small convolution, and they keep a
runtime from fusing the convolution with its activation.
"""

from __future__ import annotations

import numpy as np
import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import attributes_of
from sandglass.sources.rewrites import Stage

STAGE: Stage = "simplified"
AFTER: tuple[str, ...] = ()


def rewrite(model: onnx.ModelProto) -> None:
    """Fold each Mul and Add of a constant that is the only reader of a convolution's result, in place."""
    with GraphIndex(model) as graph:
        for node in graph:
            if _has_constant_weights(graph, node):
                _fold(graph, node)


def _has_constant_weights(graph: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution with constant weights. A transposed convolution must have a single group."""
    plain = node.op_type == "ConvTranspose" and attributes_of(node).get("group", 1) == 1
    return (node.op_type == "Conv" or plain) and all(name in graph.constants for name in node.input[1:] if name)


def _fold(graph: GraphIndex, convolution: onnx.NodeProto) -> None:
    axis = 0 if convolution.op_type == "Conv" else 1  # axis of the output channels
    weight, *biases = (graph.constant(name).astype(np.float64) for name in convolution.input[1:] if name)
    bias = biases[0] if biases else np.zeros(weight.shape[axis])
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    folded = False
    while (node := _scale_or_shift(graph, convolution.output[0])) is not None:
        values = _by_channel(graph, node, len(bias))
        if values is None:
            break
        if node.op_type == "Mul":
            weight, bias = weight * values.reshape(shape), bias * values
        else:
            bias = bias + values
        graph.remove(node)
        graph.set_output(convolution, 0, node.output[0])
        folded = True
    if folded:  # add new constants, because other nodes may read the old ones
        output = convolution.output[0]
        parts = (("weight", weight), ("bias", bias))
        names = [graph.add_constant(f"{output}.{part}", values.astype(np.float32)) for part, values in parts]
        graph.set_inputs(convolution, [convolution.input[0], *names])


def _scale_or_shift(graph: GraphIndex, tensor: str) -> onnx.NodeProto | None:
    """The Mul or Add that is the only reader of a tensor; None otherwise."""
    return graph.only_consumer(tensor, "Mul", "Add") if graph.read_once(tensor) else None


def _by_channel(graph: GraphIndex, node: onnx.NodeProto, channels: int) -> np.ndarray | None:
    """The constant that a node multiplies by or adds, (channels,) float64; None if it varies within a channel."""
    constants = [name for name in node.input if name in graph.constants]
    if len(constants) != 1:
        return None
    values = graph.constant(constants[0]).astype(np.float64)
    if values.size == 1 and values.ndim <= 4:
        return np.full(channels, values.item())
    shape = (1,) * (4 - values.ndim) + values.shape
    return values.ravel() if shape == (1, channels, 1, 1) else None
