"""Edits of layers with weights: copies of shared constants, and values added to biases."""

from __future__ import annotations

import numpy as np
import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.layers import find_layers


def own_constants(model: onnx.ModelProto) -> None:
    """Give each layer weights and a bias that no other node reads, so that they can be edited. Changes the model."""
    layers, graph = find_layers(model), GraphIndex(model)
    read = {name for node in graph if node.name not in layers for name in node.input}
    for node in (node for node in graph if node.name in layers):
        for i, name in enumerate(list(node.input)):
            if name in graph.constants and name in read:
                graph.set_input(node, i, graph.copy_constant(f"{node.name}.constant{i}", graph.constants[name]))
            read.add(name)


def add_to_bias(graph: GraphIndex, node: onnx.NodeProto, channels: int, values: np.ndarray) -> None:
    """Add `values`, (channels,) or (1,), to the bias of a layer, which gets a bias if it has none.

    The bias must be a constant that no other node reads.
    """
    if len(node.input) < 3 or not node.input[2]:
        zeros = graph.add_constant(f"{node.name}.offset", np.zeros(channels, np.float32))
        graph.set_inputs(node, [*node.input[:2], zeros])
    bias = graph.constant(node.input[2])
    graph.set_constant(node.input[2], (bias.astype(np.float64) + values).astype(np.float32))
