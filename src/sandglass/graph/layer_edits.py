"""Edits of layers with weights: values that are added to their biases."""

from __future__ import annotations

import numpy as np
import onnx

from sandglass.graph.index import GraphIndex


def add_to_bias(graph: GraphIndex, node: onnx.NodeProto, channels: int, values: np.ndarray) -> None:
    """Add to a layer's bias, (channels,), `values`, one for each channel or one for all; add a bias where it has none.

    The bias must be a constant that no other node reads.
    """
    if len(node.input) < 3 or not node.input[2]:
        zeros = graph.add_constant(f"{node.name}.offset", np.zeros(channels, np.float32))
        graph.set_inputs(node, [*node.input[:2], zeros])
    bias = graph.constant(node.input[2])
    graph.set_constant(node.input[2], (bias.astype(np.float64) + values).astype(np.float32))
