"""Pad nodes in place of a layer's own padding, for layers that have to pad with another value than 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.io import set_nodes
from sandglass.graph.layers import facts
from sandglass.graph.names import Names


def pad_layers(model: onnx.ModelProto, values: Mapping[str, float]) -> onnx.ModelProto:
    """The network whose layers in `values` pad with these in place of 0, by a Pad before each; the model is changed."""
    if not values:
        return model
    known, names, nodes = facts(model), Names(model), list[onnx.NodeProto]()
    for node in model.graph.node:
        if node.name in values:
            padded = names.fresh(f"{node.name}.padded")
            nodes.append(pad_node(model, node.input[0], padded, known[node.name].pads, values[node.name]))
            node.input[0] = padded
            drop_pads(node)
        nodes.append(node)
    return set_nodes(model, nodes)


def pad_node(model: onnx.ModelProto, tensor: str, padded: str, pads: Sequence[int], value: float) -> onnx.NodeProto:
    """A Pad of `tensor` by a layer's `pads` with `value`, whose result is called `padded`, a fresh name."""
    starts, ends = np.reshape(pads, (2, -1))
    constants = {
        f"{padded}.pads": np.array([0, 0, *starts, 0, 0, *ends], np.int64),
        f"{padded}.value": np.array(value, np.float32),
    }
    for name, constant in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(constant, name))
    # pnnx lets the layer pad where the mode is written out, though it is the default.
    return helper.make_node("Pad", [tensor, *constants], [padded], f"{padded}.by", mode="constant")


def drop_pads(node: onnx.NodeProto) -> None:
    """Remove a layer's own padding."""
    node.attribute.remove(next(attribute for attribute in node.attribute if attribute.name == "pads"))
