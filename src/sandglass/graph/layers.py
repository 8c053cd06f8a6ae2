"""What the graph offers to quantize: layers with constant weights, the tensors around them, and facts about each."""

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
CLAMPS = ("Relu", "Clip")  # a clamp after a layer is part of it: the tensor before it is never stored


@dataclass(frozen=True)
class Layer:
    """One layer with weights: its node, its operator, and the tensors that it reads and makes."""

    name: str
    operator: str
    input: str
    output: str
    weight: str


@dataclass(frozen=True)
class Facts:
    """What a target may ask of a layer before it agrees to run it in int8."""

    layer: Layer
    shape: tuple[int, ...]
    group: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[int, ...]
    axis: int  # of the weight: its output channels, each with a scale of its own
    explicit: bool  # padding is told in numbers, and the output neither grown nor of a size that is told
    makes_output: bool

    @property
    def depthwise(self) -> bool:
        """One filter a channel."""
        return self.layer.operator == "Conv" and self.group > 1 and self.shape[1] == 1

    @property
    def channelwise(self) -> bool:
        """One filter a channel, forward or transposed, as many channels out as in."""
        return self.group > 1 and self.shape[:2] == (self.group, 1)

    @property
    def pointwise(self) -> bool:
        """A convolution of each pixel by itself, all channels with all."""
        still = {*self.stride} == {1} and not any(self.pads) and self.explicit
        return self.layer.operator == "Conv" and self.group == 1 and self.shape[2:] == (1, 1) and still

    @property
    def channels(self) -> int:
        """Output channels."""
        if self.layer.operator == "ConvTranspose":
            return self.shape[1] * self.group
        return self.shape[self.axis]


def find_layers(model: onnx.ModelProto) -> dict[str, Layer]:
    """Layers with weights that are initializers, by node name, in the graph's order."""
    weights = {initializer.name for initializer in model.graph.initializer}
    return {
        node.name: Layer(node.name, node.op_type, node.input[0], node.output[0], node.input[1])
        for node in model.graph.node
        if node.op_type in OPERATORS and node.input[1] in weights and node.input[0] not in weights
    }


def facts(model: onnx.ModelProto) -> dict[str, Facts]:
    """Facts of every layer, by name."""
    graph, nodes = GraphIndex(model), {node.name: node for node in model.graph.node}
    return {
        name: fact_of(
            nodes[name], graph.constants[layer.weight].dims, rounded_tensor(graph, layer.output) in graph.outputs
        )
        for name, layer in find_layers(model).items()
    }


def fact_of(node: onnx.NodeProto, shape: Sequence[int], makes_output: bool = False) -> Facts:
    """Facts of a layer whose weights have a `shape`."""
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
    """Where a layer's result can be rounded: after the clamp that alone follows it, else its own output."""
    clamp = graph.only_consumer(tensor, *CLAMPS)
    return str(clamp.output[0]) if clamp is not None else tensor


def clamp_bounds(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """For each layer the bounds of the clamp that alone follows it; infinite without one."""
    graph = GraphIndex(model)
    clamps = {name: graph.only_consumer(layer.output, *CLAMPS) for name, layer in find_layers(model).items()}
    return {
        name: (-np.inf, np.inf) if node is None else clamp_ends(node, graph.constants) for name, node in clamps.items()
    }


def clamp_ends(clamp: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, float]:
    """Bounds of a ReLU or Clip; infinite where they are not given, or computed."""
    if clamp.op_type == "Relu":
        return 0.0, np.inf
    low, high = (number(constants, end) for end in [*clamp.input[1:], "", ""][:2])
    return -np.inf if low is None else low, np.inf if high is None else high


def measured_tensors(model: onnx.ModelProto) -> list[str]:
    """Every activation that some target may round: what nodes read, but for tensors that only a clamp reads."""
    graph = GraphIndex(model)
    constants = {*graph.constants, *(node.output[0] for node in graph if node.op_type == "Constant")}
    read = dict.fromkeys(name for node in model.graph.node for name in node.input if name and name not in constants)
    names = [name for name in read if rounded_tensor(graph, name) == name]
    return list(dict.fromkeys([*names, *(value.name for value in model.graph.output)]))


def fingerprint(model: onnx.ModelProto) -> str:
    """Hash of the graph's layers, their tensors and weights: the same for the same network, however it was written."""
    digest = hashlib.sha256()
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    for layer in find_layers(model).values():
        digest.update(f"{layer.name}|{layer.operator}|{layer.input}|{layer.output}".encode())
        digest.update(np.ascontiguousarray(numpy_helper.to_array(weights[layer.weight])).tobytes())
    return digest.hexdigest()
