"""Gradients of a network's outputs with respect to its tensors, as ONNX nodes after the network.

This is reverse accumulation: for each node its adjoint is added, written with ONNX operators. The differentiated number
is a weighted sum of all values of all outputs; the weights of each output are a new input of the graph. With random
weights of mean 0 and variance 1, the square of (gradient times a small change of a tensor) is on average the power of
the change of the outputs.
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

Gradients = dict[str, str]  # the tensor that holds a gradient, by the input of the node that it belongs to


@dataclass(frozen=True)
class Differentiated:
    """A network with gradients.

    `gradients` gives for each tensor the name of its gradient; `weights` gives for each output the name of the input
    with the weights of its values.
    """

    model: onnx.ModelProto
    gradients: Mapping[str, str]
    weights: Mapping[str, str]


def with_gradients(model: onnx.ModelProto, tensors: Sequence[str]) -> Differentiated:
    """The network with the gradients for `tensors`. Changes the model.

    A tensor has no gradient if a node between it and an output has an operator without an adjoint here.
    """
    writer = _Writer(model)
    writer.backward()
    gradients = {name: writer.gradients[name] for name in tensors if name in writer.gradients}
    return Differentiated(model, gradients, writer.weights)


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.shapes, self.graph = model, inferred_shapes(model), GraphIndex(model)
        self.gradients: dict[str, str] = {}  # by tensor, for tensors with a gradient
        self.weights: dict[str, str] = {}  # by output
        self.nodes: list[onnx.NodeProto] = []

    def backward(self) -> None:
        """Add the adjoints of all nodes, from the outputs to the inputs."""
        parts: defaultdict[str, list[str]] = defaultdict(list)
        unknown: set[str] = set()
        for value in self.model.graph.output:
            name = self.weights[value.name] = self.graph.fresh(f"{value.name}.weights")
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[value.name])
            self.model.graph.input.append(info)
            parts[value.name].append(name)
        nodes = list(self.model.graph.node)
        for node in reversed(nodes):
            output = node.output[0]
            if output not in parts and output not in unknown:
                continue  # no output depends on this node
            gradient = self._sum(output, parts[output]) if output not in unknown else ""
            adjoint = ADJOINTS.get(node.op_type) if self._sized(node) else None
            input_gradients = adjoint(self, node, gradient) if gradient and adjoint and len(node.output) == 1 else {}
            for name in node.input:
                if name in input_gradients:
                    parts[name].append(input_gradients[name])
                elif name not in self.graph.constants:
                    unknown.add(name)
        for value in self.model.graph.input:
            if value.name in parts and value.name not in unknown:
                self._sum(value.name, parts[value.name])
        self.model.graph.node.extend(self.nodes)

    def _sized(self, node: onnx.NodeProto) -> bool:
        """Whether the shapes of all inputs and outputs of a node are known."""
        computed = [name for name in (*node.input, *node.output) if name and name not in self.graph.constants]
        return all(name in self.shapes and all(self.shapes[name]) for name in computed)

    def _sum(self, tensor: str, parts: Sequence[str]) -> str:
        self.gradients[tensor] = self.node("Sum", parts, f"{tensor}.gradient")
        return self.gradients[tensor]

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node and return the name of its output: `output`, or with a number after it if that is taken."""
        name = self.graph.fresh(output)
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def masked(self, gradient: str, condition: str, output: str) -> str:
        """A gradient that is 0 where a condition does not hold."""
        number = self.node("Cast", [condition], f"{condition}.number", to=TensorProto.FLOAT)
        return self.node("Mul", [gradient, number], output)


def _convolution(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a convolution is the transposed convolution with the same weights, and the reverse."""
    shape = writer.shapes[node.input[0]]
    if node.input[1] not in writer.graph.constants or len(shape) != 4:
        return {}
    fact = fact_of(node, writer.graph.constants[node.input[1]].dims)
    steps = {"strides": fact.stride, "dilations": fact.dilation, "pads": fact.pads, "group": fact.group}
    kernel, output = fact.shape[2:], f"{node.output[0]}.adjoint"
    if any(a.name == "output_shape" or (a.name == "auto_pad" and a.s != b"NOTSET") for a in node.attribute):
        return {}  # the padding depends on the sizes
    if node.op_type == "ConvTranspose":
        return {node.input[0]: writer.node("Conv", [gradient, node.input[1]], output, **steps)}
    # Rows and columns at the end that the strided convolution does not read: they are added to the gradient.
    rest = [
        shape[2 + i]
        - ((writer.shapes[node.output[0]][2 + i] - 1) * fact.stride[i] + fact.dilation[i] * (kernel[i] - 1) + 1)
        + fact.pads[i]
        + fact.pads[2 + i]
        for i in range(2)
    ]
    return {
        node.input[0]: writer.node("ConvTranspose", [gradient, node.input[1]], output, **steps, output_padding=rest)
    }


def _matrix(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a product with a constant matrix on the right: the product with its transpose."""
    matrix = writer.graph.value(node.input[1])
    factors = attributes_of(node)
    if matrix is None or matrix.ndim != 2 or factors.get("transA") or factors.get("alpha", 1.0) != 1.0:
        return {}
    back = writer.graph.add_constant(
        f"{node.output[0]}.back", matrix if factors.get("transB") else np.ascontiguousarray(matrix.T)
    )
    return {node.input[0]: writer.node("MatMul", [gradient, back], f"{node.output[0]}.adjoint")}


def _clamp(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a ReLU or Clip: the gradient for values strictly between the bounds, and 0 elsewhere."""
    low, high = clamp_ends(node, writer.graph.constants)
    if any(name and name not in writer.graph.constants for name in node.input[1:]):
        return {}
    output = node.output[0]
    ends = [
        writer.graph.add_constant(f"{output}.{name}", np.float32(end)) for name, end in (("low", low), ("high", high))
    ]
    above = writer.node("Greater", [output, ends[0]], f"{output}.above")
    below = writer.node("Less", [output, ends[1]], f"{output}.below")
    inside = writer.node("And", [above, below], f"{output}.inside")
    return {node.input[0]: writer.masked(gradient, inside, f"{node.output[0]}.adjoint")}


def _add(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a sum: the same gradient for each term. A broadcast term gets none here."""
    shape = writer.shapes[node.output[0]]
    if len(set(node.input)) < len(node.input):
        return {}
    return {name: gradient for name in node.input if writer.shapes.get(name) == shape}


def _normalization(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a BatchNormalization: the gradient times scale / sqrt(variance + epsilon)."""
    scale, variance = writer.graph.value(node.input[1]), writer.graph.value(node.input[4])
    if scale is None or variance is None:
        return {}
    epsilon = attributes_of(node).get("epsilon", 1e-5)
    factor = (scale / np.sqrt(variance + epsilon)).astype(np.float32)
    factors = writer.graph.add_constant(
        f"{node.output[0]}.back", factor.reshape(-1, *[1] * (len(writer.shapes[node.output[0]]) - 2))
    )
    return {node.input[0]: writer.node("Mul", [gradient, factors], f"{node.output[0]}.adjoint")}


def _max_pool(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a MaxPool whose windows tile the input: the largest value of a window gets the gradient."""
    source, output = node.input[0], node.output[0]
    factors = _factors(writer.shapes[source], writer.shapes[output])
    attributes = attributes_of(node)
    windows = [list(attributes.get(name, [])) for name in ("kernel_shape", "strides")]
    if factors is None or windows != [factors[2:], factors[2:]] or any(attributes.get("pads", ())):
        return {}
    scales = writer.graph.add_constant(f"{node.output[0]}.factors", np.array(factors, np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    largest, spread = (
        writer.node("Resize", [name, "", scales], f"{node.output[0]}.{part}", **how)
        for name, part in ((output, "largest"), (gradient, "spread"))
    )
    is_largest = writer.node("Equal", [source, largest], f"{node.output[0]}.chosen")
    return {source: writer.masked(spread, is_largest, f"{node.output[0]}.adjoint")}


def _resize(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a Resize that repeats each pixel: the sum of the gradients of its copies."""
    source, output = node.input[0], node.output[0]
    factors = _factors(writer.shapes[output], writer.shapes[source])
    attributes = attributes_of(node)
    places = attributes.get("coordinate_transformation_mode", "half_pixel")
    nearest = attributes.get("nearest_mode", "round_prefer_floor")
    whole = nearest == "floor" if places == "asymmetric" else places == "half_pixel" and "round" in nearest
    if attributes.get("mode", "nearest") != "nearest" or factors is None or not whole:
        return {}
    window = factors[2:]
    mean = writer.node("AveragePool", [gradient], f"{node.output[0]}.mean", kernel_shape=window, strides=window)
    count = writer.graph.add_constant(f"{node.output[0]}.count", np.float32(np.prod(window)))
    return {source: writer.node("Mul", [mean, count], f"{node.output[0]}.adjoint")}


def _factors(large: Sequence[int], small: Sequence[int]) -> list[int] | None:
    """The ratio of two shapes with four axes, by axis; None if a ratio is not a whole number."""
    if len(large) != 4 or large[:2] != small[:2] or any(a % b for a, b in zip(large, small, strict=True)):
        return None
    return [a // b for a, b in zip(large, small, strict=True)]


def _concat(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a Concat: a Split of the gradient."""
    axis = next(a.i for a in node.attribute if a.name == "axis")
    sizes = [writer.shapes[name][axis] if name in writer.shapes else 0 for name in node.input]
    if not all(sizes) or len(set(node.input)) < len(sizes):
        return {}
    parts = [writer.graph.fresh(f"{node.output[0]}.adjoint{i}") for i in range(len(sizes))]
    split = writer.graph.add_constant(f"{node.output[0]}.sizes", np.array(sizes, np.int64))
    writer.nodes.append(helper.make_node("Split", [gradient, split], parts, axis=axis))
    return dict(zip(node.input, parts, strict=True))


def _mean(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of the mean over an image: each pixel gets the gradient divided by the number of pixels."""
    shape = writer.shapes[node.input[0]]
    share = writer.graph.add_constant(
        f"{node.output[0]}.share", np.full((1, 1, *shape[2:]), 1 / np.prod(shape[2:]), np.float32)
    )
    return {node.input[0]: writer.node("Mul", [gradient, share], f"{node.output[0]}.adjoint")}


def _reshape(writer: _Writer, node: onnx.NodeProto, gradient: str) -> Gradients:
    """The adjoint of a Reshape or Flatten: the gradient in the shape of the input."""
    shape = writer.graph.add_constant(f"{node.output[0]}.shape", np.array(writer.shapes[node.input[0]], np.int64))
    return {node.input[0]: writer.node("Reshape", [gradient, shape], f"{node.output[0]}.adjoint")}


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
    "Identity": lambda writer, node, gradient: {node.input[0]: gradient},
    "MatMul": _matrix,
    "MaxPool": _max_pool,
    "Relu": _clamp,
    "Reshape": _reshape,
    "Resize": _resize,
}
