"""Pad nodes that replace a layer's own padding, for layers that have to pad with another value than 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.edit import set_nodes
from sandglass.graph.index import GraphIndex
from sandglass.graph.layers import facts


def pad_layers(model: onnx.ModelProto, values: Mapping[str, float]) -> None:
    """Let each layer in `values` pad with its value and not with 0; changes the model.

    A Pad node in front of the layer replaces its own padding.
    """
    if not values:
        return
    known, graph, nodes = facts(model), GraphIndex(model), list[onnx.NodeProto]()
    for node in graph:
        if node.name in values:
            pads, value = known[node.name].pads, values[node.name]
            nodes.append(pad_node(graph, node.input[0], f"{node.name}.padded", pads, value))
            graph.set_input(node, 0, nodes[-1].output[0])
            drop_pads(node)
        nodes.append(node)
    set_nodes(model, nodes)


def pad_node(graph: GraphIndex, tensor: str, output: str, pads: Sequence[int], value: float) -> onnx.NodeProto:
    """A Pad of `tensor` by a layer's `pads` with `value`; its output is named `output` if that name is not taken."""
    (starts, ends), padded = np.reshape(pads, (2, -1)), graph.fresh(output)
    sizes = graph.add_constant(f"{padded}.pads", np.array([0, 0, *starts, 0, 0, *ends], np.int64))
    filler = graph.add_constant(f"{padded}.value", np.array(value, np.float32))
    # The default mode is written out, because only then pnnx merges the Pad into the layer.
    name = graph.fresh(f"{padded}.by")
    return helper.make_node("Pad", [tensor, sizes, filler], [padded], name, mode="constant")


def drop_pads(node: onnx.NodeProto) -> None:
    """Remove a layer's own padding."""
    node.attribute.remove(next(attribute for attribute in node.attribute if attribute.name == "pads"))
