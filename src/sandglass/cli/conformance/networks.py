"""Small networks that the conformance tests run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sandglass.sources.card import Card, Input


def network(text: str, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The graph `text`, in ONNX's text format, with the `weights` that it reads as float32 constants.

    A node is named as its first output.
    """
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values, np.float32), name)
        for name, values in weights.items()
        if name in read
    )
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def normal(seed: int, *shape: int) -> np.ndarray:
    """Values of a normal distribution, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small_card(folder: Path) -> Card:
    """A card of the graph of `save_graph`, which is written into `folder`."""
    path = save_graph(folder / "small.onnx")
    return Card("small", "topdown-pose", Input((32, 24), (123.0, 116.0, 103.0), (58.0, 57.0, 57.0)), graph=path)


def save_graph(path: Path) -> Path:
    """A network with the usual parts: strided, depthwise and grouped convolutions, a sum, upsampling."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        return numpy_helper.from_array(values.astype(np.float32), name)

    initializers = [weight("w1", 8, 3, 3, 3), weight("b1", 8), weight("w2", 8, 1, 3, 3), weight("w3", 16, 8, 1, 1),
                    weight("w4", 16, 16, 3, 3), weight("w5", 17, 16, 1, 1),
                    numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")]  # fmt: skip
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], "first", strides=[2, 2], **pads),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", group=8, strides=[2, 2], **pads),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], "pointwise"),
        helper.make_node("Conv", ["c3", "w4"], ["c4"], "three", **pads),
        helper.make_node("Add", ["c3", "c4"], ["sum"], "add"),
        helper.make_node("Relu", ["sum"], ["r3"], "relu3"),
        helper.make_node("Resize", ["r3", "", "scales"], ["up"], "up", mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
        helper.make_node("Conv", ["up", "w5"], ["heatmaps"], "last"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 24])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, [1, 17, 16, 12])],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
