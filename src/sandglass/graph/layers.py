"""The layers of a graph that can be quantized, the tensors around them, and facts about each layer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import attributes_of, number

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CLAMPS = ("Relu", "Clip")  # a clamp after a layer belongs to the layer: the tensor between them is never stored


@dataclass(frozen=True)
class Layer:
    """A layer with weights: the names of its node, operator, input tensor, output tensor and weight."""

    name: str
    operator: str
    input: str
    output: str
    weight: str


@dataclass(frozen=True)
class Facts:
    """Facts about a layer that decide whether and how a target can run it in int8."""

    layer: Layer
    shape: tuple[int, ...]  # of the weight
    group: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[int, ...]
    axis: int  # axis of the weight with its output channels, each of which has a scale
    explicit: bool  # padding is given as numbers, without auto_pad, output_padding and output_shape
    makes_output: bool  # the result is an output of the graph

    @property
    def depthwise(self) -> bool:
        """Whether this is a convolution with one filter for each channel."""
        return self.layer.operator == "Conv" and self.group > 1 and self.shape[1] == 1

    @property
    def channelwise(self) -> bool:
        """Whether this is a convolution, transposed or not, with one filter for each channel and as many outputs."""
        return self.group > 1 and self.shape[:2] == (self.group, 1)

    @property
    def pointwise(self) -> bool:
        """Whether this is a 1x1 convolution without stride, padding and groups."""
        still = {*self.stride} == {1} and not any(self.pads) and self.explicit
        return self.layer.operator == "Conv" and self.group == 1 and self.shape[2:] == (1, 1) and still

    @property
    def channels(self) -> int:
        """The number of output channels."""
        if self.layer.operator == "ConvTranspose":
            return self.shape[1] * self.group
        return self.shape[self.axis]


def find_layers(model: onnx.ModelProto) -> dict[str, Layer]:
    """The layers whose weights are initializers, by the name of the node, in the graph's order."""
    weights = {initializer.name for initializer in model.graph.initializer}
    return {
        node.name: Layer(node.name, node.op_type, node.input[0], node.output[0], node.input[1])
        for node in model.graph.node
        if node.op_type in OPERATORS and node.input[1] in weights and node.input[0] not in weights
    }


def facts(model: onnx.ModelProto) -> dict[str, Facts]:
    """The facts about each layer, by name."""
    graph, nodes = GraphIndex(model), {node.name: node for node in model.graph.node}
    return {
        name: fact_of(
            nodes[name], graph.constants[layer.weight].dims, rounded_tensor(graph, layer.output) in graph.outputs
        )
        for name, layer in find_layers(model).items()
    }


def fact_of(node: onnx.NodeProto, shape: Sequence[int], makes_output: bool = False) -> Facts:
    """The facts about the layer of a node whose weight has the `shape`."""
    attributes = attributes_of(node)
    steps, holes = tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("dilations", (1, 1)))
    pads, group = tuple(attributes.get("pads", (0, 0, 0, 0))), attributes.get("group", 1)
    explicit = attributes.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in attributes
    explicit = explicit and not any(attributes.get("output_padding", ()))
    axis = _channel_axis(node.op_type, tuple(shape), group, bool(attributes.get("transB", 0)))
    layer = Layer(node.name, node.op_type, node.input[0], node.output[0], node.input[1])
    return Facts(layer, tuple(shape), group, steps, holes, pads, axis, explicit, makes_output)


def _channel_axis(operator: str, shape: tuple[int, ...], group: int, transposed: bool) -> int:
    if operator == "Gemm":
        return 0 if transposed else 1
    if operator == "ConvTranspose":
        depthwise = group > 1 and shape[:2] == (group, 1)  # the input channels are the output channels
        return 0 if depthwise else 1
    return 0 if operator == "Conv" else len(shape) - 1


def rounded_tensor(graph: GraphIndex, tensor: str) -> str:
    """The tensor in which a layer's result is rounded: the output of a clamp that is its only reader, or `tensor`."""
    clamp = graph.only_consumer(tensor, *CLAMPS)
    return str(clamp.output[0]) if clamp is not None else tensor


def clamp_bounds(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """For each layer the bounds of the clamp that is its only reader; infinite if there is none."""
    graph = GraphIndex(model)
    clamps = {name: graph.only_consumer(layer.output, *CLAMPS) for name, layer in find_layers(model).items()}
    return {
        name: (-np.inf, np.inf) if node is None else clamp_ends(node, graph.constants) for name, node in clamps.items()
    }


def clamp_ends(clamp: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, float]:
    """The bounds of a ReLU or Clip; infinite for a bound that is missing or computed."""
    if clamp.op_type == "Relu":
        return 0.0, np.inf
    low, high = (number(constants, end) for end in [*clamp.input[1:], "", ""][:2])
    return -np.inf if low is None else low, np.inf if high is None else high


def measured_tensors(model: onnx.ModelProto) -> list[str]:
    """All activations that a target may round: the inputs of nodes, without those that only a clamp reads."""
    graph = GraphIndex(model)
    constants = {*graph.constants, *(node.output[0] for node in graph if node.op_type == "Constant")}
    read = dict.fromkeys(name for node in model.graph.node for name in node.input if name and name not in constants)
    names = [name for name in read if rounded_tensor(graph, name) == name]
    return list(dict.fromkeys([*names, *(value.name for value in model.graph.output)]))


def fingerprint(model: onnx.ModelProto) -> str:
    """Hash of the graph's layers, their tensors and weights; it does not depend on other details of the file."""
    digest = hashlib.sha256()
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    for layer in find_layers(model).values():
        digest.update(f"{layer.name}|{layer.operator}|{layer.input}|{layer.output}".encode())
        digest.update(np.ascontiguousarray(numpy_helper.to_array(weights[layer.weight])).tobytes())
    return digest.hexdigest()
