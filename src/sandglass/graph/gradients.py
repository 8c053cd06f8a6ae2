"""The gradients of a network's outputs by its tensors, computed by a graph like the network itself.

Reverse accumulation: each node's adjoint is written with ONNX's own operators behind the network. An input of the new
graph holds, for each output, the weights of a sum of that output's values, and the sum is what is differentiated. With
weights drawn at random, of mean 0 and variance 1, the square of a gradient's product with a small change of a tensor is
on average the power of the change that the outputs see.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.layers import clamp_ends, fact_of
from sandglass.graph.nodes import attributes_of
from sandglass.graph.shapes import inferred_shapes

Gradients = dict[str, str]  # by the input that a gradient is of, the tensor that holds it


@dataclass(frozen=True)
class Differentiated:
    """A network with gradients behind it.

    `gradients` names the gradient of each tensor that has one, `weights` the input that holds the weights of each
    output's values.
    """

    model: onnx.ModelProto
    gradients: Mapping[str, str]
    weights: Mapping[str, str]


def with_gradients(model: onnx.ModelProto, tensors: Sequence[str]) -> Differentiated:
    """The network with gradients of `tensors` behind it; the model is changed.

    A tensor from which a node leads to an output whose adjoint is not known here has none.
    """
    writer = _Writer(model)
    writer.backward()
    found = {name: writer.gradients[name] for name in tensors if name in writer.gradients}
    return Differentiated(model, found, writer.weights)


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.shapes, self.graph = model, inferred_shapes(model), GraphIndex(model)
        self.gradients: dict[str, str] = {}  # by tensor; of those whose gradient is known
        self.weights: dict[str, str] = {}  # by output
        self.nodes: list[onnx.NodeProto] = []

    def backward(self) -> None:
        """Write the adjoints, from the outputs to the inputs."""
        parts: defaultdict[str, list[str]] = defaultdict(list)
        unknown: set[str] = set()
        for value in self.model.graph.output:
            name = self.weights[value.name] = self.graph.fresh(f"{value.name}.weights")
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[value.name])
            self.model.graph.input.append(info)
            parts[value.name].append(name)
        nodes = list(self.model.graph.node)
        for node in reversed(nodes):
            made = node.output[0]
            if made not in parts and made not in unknown:
                continue  # leads to no output
            given = self._sum(made, parts[made]) if made not in unknown else ""
            adjoint = ADJOINTS.get(node.op_type) if self._sized(node) else None
            found = adjoint(self, node, given) if given and adjoint and len(node.output) == 1 else {}
            for name in node.input:
                if name in found:
                    parts[name].append(found[name])
                elif name not in self.graph.constants:
                    unknown.add(name)
        for value in self.model.graph.input:
            if value.name in parts and value.name not in unknown:
                self._sum(value.name, parts[value.name])
        self.model.graph.node.extend(self.nodes)

    def _sized(self, node: onnx.NodeProto) -> bool:
        """Whether the shapes of all that a node reads and makes are known."""
        computed = [name for name in (*node.input, *node.output) if name and name not in self.graph.constants]
        return all(name in self.shapes and all(self.shapes[name]) for name in computed)

    def _sum(self, tensor: str, parts: Sequence[str]) -> str:
        self.gradients[tensor] = self.node("Sum", parts, f"{tensor}.gradient")
        return self.gradients[tensor]

    def node(self, operator: str, inputs: Sequence[str], wanted: str, **attributes: Any) -> str:
        """Write a node and return what it makes, which is called as `wanted` where that is free."""
        made = self.graph.fresh(wanted)
        self.nodes.append(helper.make_node(operator, list(inputs), [made], **attributes))
        return made

    def masked(self, given: str, condition: str, made: str) -> str:
        """A gradient where a condition holds, and 0 elsewhere."""
        number = self.node("Cast", [condition], f"{condition}.number", to=TensorProto.FLOAT)
        return self.node("Mul", [given, number], made)


def _convolution(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    """A convolution's adjoint is the transposed one with the same weights, and the other way round."""
    shape = writer.shapes[node.input[0]]
    if node.input[1] not in writer.graph.constants or len(shape) != 4:
        return {}
    fact = fact_of(node, writer.graph.constants[node.input[1]].dims)
    steps = {"strides": fact.stride, "dilations": fact.dilation, "pads": fact.pads, "group": fact.group}
    kernel, made = fact.shape[2:], f"{node.output[0]}.adjoint"
    if any(a.name == "output_shape" or (a.name == "auto_pad" and a.s != b"NOTSET") for a in node.attribute):
        return {}  # padding follows from sizes
    if node.op_type == "ConvTranspose":
        return {node.input[0]: writer.node("Conv", [given, node.input[1]], made, **steps)}
    rest = [
        shape[2 + i]
        - ((writer.shapes[node.output[0]][2 + i] - 1) * fact.stride[i] + fact.dilation[i] * (kernel[i] - 1) + 1)
        + fact.pads[i]
        + fact.pads[2 + i]
        for i in range(2)
    ]
    return {node.input[0]: writer.node("ConvTranspose", [given, node.input[1]], made, **steps, output_padding=rest)}


def _matrix(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    """A product with a constant matrix from the right."""
    matrix = writer.graph.value(node.input[1])
    factors = attributes_of(node)
    if matrix is None or matrix.ndim != 2 or factors.get("transA") or factors.get("alpha", 1.0) != 1.0:
        return {}
    back = writer.graph.add_constant(
        f"{node.output[0]}.back", matrix if factors.get("transB") else np.ascontiguousarray(matrix.T)
    )
    return {node.input[0]: writer.node("MatMul", [given, back], f"{node.output[0]}.adjoint")}


def _clamp(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    low, high = clamp_ends(node, writer.graph.constants)
    if any(name and name not in writer.graph.constants for name in node.input[1:]):
        return {}
    made = node.output[0]
    ends = [
        writer.graph.add_constant(f"{made}.{name}", np.float32(end)) for name, end in (("low", low), ("high", high))
    ]
    above = writer.node("Greater", [made, ends[0]], f"{made}.above")
    below = writer.node("Less", [made, ends[1]], f"{made}.below")
    inside = writer.node("And", [above, below], f"{made}.inside")
    return {node.input[0]: writer.masked(given, inside, f"{node.output[0]}.adjoint")}


def _add(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    """Terms of the sum's shape; of one that is spread over it no gradient is known."""
    shape = writer.shapes[node.output[0]]
    if len(set(node.input)) < len(node.input):
        return {}
    return {name: given for name in node.input if writer.shapes.get(name) == shape}


def _normalization(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    scale, variance = writer.graph.value(node.input[1]), writer.graph.value(node.input[4])
    if scale is None or variance is None:
        return {}
    epsilon = attributes_of(node).get("epsilon", 1e-5)
    factor = (scale / np.sqrt(variance + epsilon)).astype(np.float32)
    factors = writer.graph.add_constant(
        f"{node.output[0]}.back", factor.reshape(-1, *[1] * (len(writer.shapes[node.output[0]]) - 2))
    )
    return {node.input[0]: writer.node("Mul", [given, factors], f"{node.output[0]}.adjoint")}


def _max_pool(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    """Windows that neither overlap nor leave anything out: each largest value has its window's gradient."""
    source, made = node.input[0], node.output[0]
    factors = _factors(writer.shapes[source], writer.shapes[made])
    read = attributes_of(node)
    windows = [list(read.get(name, [])) for name in ("kernel_shape", "strides")]
    if factors is None or windows != [factors[2:], factors[2:]] or any(read.get("pads", ())):
        return {}
    scales = writer.graph.add_constant(f"{node.output[0]}.factors", np.array(factors, np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    largest, spread = (
        writer.node("Resize", [name, "", scales], f"{node.output[0]}.{told}", **how)
        for name, told in ((made, "largest"), (given, "spread"))
    )
    chosen = writer.node("Equal", [source, largest], f"{node.output[0]}.chosen")
    return {source: writer.masked(spread, chosen, f"{node.output[0]}.adjoint")}


def _resize(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    """Pixels repeated a whole number of times: their gradients add up."""
    source, made = node.input[0], node.output[0]
    factors = _factors(writer.shapes[made], writer.shapes[source])
    read = attributes_of(node)
    places = read.get("coordinate_transformation_mode", "half_pixel")
    nearest = read.get("nearest_mode", "round_prefer_floor")
    whole = nearest == "floor" if places == "asymmetric" else places == "half_pixel" and "round" in nearest
    if read.get("mode", "nearest") != "nearest" or factors is None or not whole:
        return {}
    window = factors[2:]
    mean = writer.node("AveragePool", [given], f"{node.output[0]}.mean", kernel_shape=window, strides=window)
    count = writer.graph.add_constant(f"{node.output[0]}.count", np.float32(np.prod(window)))
    return {source: writer.node("Mul", [mean, count], f"{node.output[0]}.adjoint")}


def _factors(large: Sequence[int], small: Sequence[int]) -> list[int] | None:
    """How many times a shape of four axes is as large as another, whole numbers; None where they are not."""
    if len(large) != 4 or large[:2] != small[:2] or any(a % b for a, b in zip(large, small, strict=True)):
        return None
    return [a // b for a, b in zip(large, small, strict=True)]


def _concat(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    axis = next(a.i for a in node.attribute if a.name == "axis")
    sizes = [writer.shapes[name][axis] if name in writer.shapes else 0 for name in node.input]
    if not all(sizes) or len(set(node.input)) < len(sizes):
        return {}
    parts = [writer.graph.fresh(f"{node.output[0]}.adjoint{i}") for i in range(len(sizes))]
    split = writer.graph.add_constant(f"{node.output[0]}.sizes", np.array(sizes, np.int64))
    writer.nodes.append(helper.make_node("Split", [given, split], parts, axis=axis))
    return dict(zip(node.input, parts, strict=True))


def _mean(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    """The mean over an image."""
    shape = writer.shapes[node.input[0]]
    share = writer.graph.add_constant(
        f"{node.output[0]}.share", np.full((1, 1, *shape[2:]), 1 / np.prod(shape[2:]), np.float32)
    )
    return {node.input[0]: writer.node("Mul", [given, share], f"{node.output[0]}.adjoint")}


def _reshape(writer: _Writer, node: onnx.NodeProto, given: str) -> Gradients:
    shape = writer.graph.add_constant(f"{node.output[0]}.shape", np.array(writer.shapes[node.input[0]], np.int64))
    return {node.input[0]: writer.node("Reshape", [given, shape], f"{node.output[0]}.adjoint")}


ADJOINTS: dict[str, Callable[[_Writer, onnx.NodeProto, str], Gradients]] = {
    "Add": _add,
    "BatchNormalization": _normalization,
    "Clip": _clamp,
    "Concat": _concat,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Flatten": _reshape,
    "Gemm": _matrix,
    "GlobalAveragePool": _mean,
    "Identity": lambda writer, node, given: {node.input[0]: given},
    "MatMul": _matrix,
    "MaxPool": _max_pool,
    "Relu": _clamp,
    "Reshape": _reshape,
    "Resize": _resize,
}
