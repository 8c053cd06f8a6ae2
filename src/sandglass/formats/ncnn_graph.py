"""ncnn's float models to ONNX, so that a model that is only published for ncnn can be brought to other runtimes.

Layers and their parameters are those of ncnn's `src/layer`. What is not known here is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sandglass.errors import FormatError
from sandglass.formats.ncnn_bin import float_weights, read_bin
from sandglass.formats.ncnn_param import ARRAY, Layer, read_param

OPSET, IR_VERSION = 17, 8
UNSET = -233  # also: padding as TensorFlow's SAME
BINARY = {0: "Add", 1: "Sub", 2: "Mul", 3: "Div", 4: "Max", 5: "Min", 6: "Pow"}
REVERSED = {7: "Sub", 8: "Div"}
Node = Callable[["_Graph", Layer, list[memoryview]], str]


def read_graph(path: Path) -> onnx.ModelProto:
    """The ONNX model of a `.param` file and the `.bin` beside it; the input has 3 channels and a free size.

    Raises FormatError for files that do not parse, and for layers that are int8 or of a kind that is not known.
    """
    param = read_param(path)
    graph, inputs = _Graph(), []
    for layer, blobs in zip(param.layers, read_bin(param, path.with_suffix(".bin")), strict=True):
        if layer.kind == "Input":
            inputs.append(helper.make_tensor_value_info(layer.tops[0], TensorProto.FLOAT, [1, 3, "height", "width"]))
        elif layer.kind == "Split":
            graph.aliases |= dict.fromkeys(layer.tops, graph.name(layer.bottoms[0]))
        elif layer.kind in LAYERS:
            graph.aliases[layer.tops[0]] = LAYERS[layer.kind](graph, layer, blobs)
        else:
            raise FormatError(f"{path}: layer {layer.name} is {layer.kind}", f"known: {', '.join(sorted(LAYERS))}")
    used = {bottom for layer in param.layers for bottom in layer.bottoms}
    outputs = [top for layer in param.layers for top in layer.tops if top not in used]
    graph.nodes += [helper.make_node("Identity", [graph.name(name)], [name]) for name in outputs]
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    made = helper.make_graph(graph.nodes, path.stem, inputs, told, graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class _Graph:
    """Nodes and weights as they are added. `aliases` are ncnn's blobs whose tensors have other names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.aliases: dict[str, str] = {}

    def name(self, blob: str) -> str:
        return self.aliases.get(blob, blob)

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, operator: str, layer: Layer, inputs: list[str], suffix: str = "", **attributes: Any) -> str:
        name = f"{layer.name}{suffix}"
        output = f"{name}_out"  # blobs may have the names of layers
        self.nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output


def _real(layer: Layer, key: int, default: float) -> float:
    try:
        return float(layer.parameters.get(key, default))
    except ValueError as error:
        raise FormatError(f"layer {layer.name}: parameter {key} is no number") from error


def _pair(layer: Layer, key: int, default: int) -> list[int]:
    """Height and width of what has the width at `key` and the height at 10 + `key`."""
    width = layer.integer(key, default)
    return [layer.integer(10 + key, width), width]


def _padding(layer: Layer, left: int, right: int, top: int, bottom: int) -> dict[str, Any]:
    """ONNX's attributes for padding by its parameters' keys, each by default that of the side before it."""
    start = layer.integer(left, 0)
    if start in (UNSET, UNSET - 1):
        return {"auto_pad": "SAME_UPPER" if start == UNSET else "SAME_LOWER"}
    above = layer.integer(top, start)
    return {"pads": [above, start, layer.integer(bottom, above), layer.integer(right, start)]}


def _floats(layer: Layer, blob: memoryview) -> np.ndarray:
    values = float_weights(blob)
    if values is None:
        raise FormatError(f"layer {layer.name} is stored in int8 or as a table", "give the float model")
    return values


def _convolution(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    return _weighted(graph, layer, blobs, "Conv", _padding(layer, 4, 15, 14, 16))


def _deconvolution(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    more = {**_padding(layer, 4, 15, 14, 16), "output_padding": [layer.integer(19, 0), layer.integer(18, 0)]}
    return _weighted(graph, layer, blobs, "ConvTranspose", more)


def _weighted(graph: _Graph, layer: Layer, blobs: list[memoryview], operator: str, more: dict[str, Any]) -> str:
    """A convolution, transposed or not, with its bias and activation. ncnn's weights are (outputs, inputs, h, w)."""
    outputs, group, kernel = layer.integer(0, 0), layer.integer(7, 1), _pair(layer, 1, 0)
    if not blobs or layer.integer(8, 0):
        raise FormatError(f"layer {layer.name} is int8, or takes its weights as an input", "give the float model")
    weights = _floats(layer, blobs[0]).reshape(group, outputs // group, -1, *kernel)
    if operator == "ConvTranspose":
        weights = weights.swapaxes(1, 2)
    inputs = [graph.name(layer.bottoms[0]), graph.weight(f"{layer.name}.weight", np.concatenate(weights))]
    if layer.integer(5, 0):
        inputs.append(graph.weight(f"{layer.name}.bias", np.frombuffer(blobs[1], np.float32)))
    made = graph.node(operator, layer, inputs, group=group, kernel_shape=kernel, strides=_pair(layer, 3, 1),
                      dilations=_pair(layer, 2, 1), **more)  # fmt: skip
    return _activation(graph, layer, made)


def _activation(graph: _Graph, layer: Layer, value: str) -> str:
    """The activation that is part of a layer: parameter 9, its numbers the array 10."""
    kind = layer.integer(9, 0)
    numbers = [float(number) for number in layer.parameters.get(-ARRAY - 10, "0").split(",")[1:]]
    if kind == 0:
        return value
    if kind == 1:
        return graph.node("Relu", layer, [value], ".activation")
    if kind == 2:
        return graph.node("LeakyRelu", layer, [value], ".activation", alpha=numbers[0])
    if kind == 3:
        limits = [
            graph.weight(f"{layer.name}.limit{i}", np.array(limit, np.float32)) for i, limit in enumerate(numbers)
        ]
        return graph.node("Clip", layer, [value, *limits], ".activation")
    if kind == 4:
        return graph.node("Sigmoid", layer, [value], ".activation")
    if kind == 6:
        gate = graph.node("HardSigmoid", layer, [value], ".gate", alpha=numbers[0], beta=numbers[1])
        return graph.node("Mul", layer, [value, gate], ".activation")
    raise FormatError(f"layer {layer.name} has the activation {kind}", "known: 1, 2, 3, 4 and 6")


def _inner_product(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    if layer.integer(8, 0):
        raise FormatError(f"layer {layer.name} is int8", "give the float model")
    weights = _floats(layer, blobs[0]).reshape(layer.integer(0, 0), -1)
    inputs = [
        graph.node("Flatten", layer, [graph.name(layer.bottoms[0])], ".flat"),
        graph.weight(f"{layer.name}.weight", weights),
    ]
    if layer.integer(1, 0):
        inputs.append(graph.weight(f"{layer.name}.bias", np.frombuffer(blobs[1], np.float32)))
    return _activation(graph, layer, graph.node("Gemm", layer, inputs, transB=1))


def _binary(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    operator = layer.integer(0, 0)
    inputs = [graph.name(bottom) for bottom in layer.bottoms]
    if layer.integer(1, 0):
        inputs.append(graph.weight(f"{layer.name}.scalar", np.array(_real(layer, 2, 0), np.float32)))
    if operator in REVERSED:
        return graph.node(REVERSED[operator], layer, inputs[::-1])
    if operator not in BINARY:
        raise FormatError(f"layer {layer.name} is the binary operation {operator}", f"known: 0 to {max(REVERSED)}")
    return graph.node(BINARY[operator], layer, inputs)


def _hard_swish(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    gate = _hard_sigmoid(graph, layer, blobs, ".gate")
    return graph.node("Mul", layer, [graph.name(layer.bottoms[0]), gate])


def _hard_sigmoid(graph: _Graph, layer: Layer, blobs: list[memoryview], suffix: str = "") -> str:
    numbers = {"alpha": _real(layer, 0, 0.2), "beta": _real(layer, 1, 0.5)}
    return graph.node("HardSigmoid", layer, [graph.name(layer.bottoms[0])], suffix, **numbers)


def _pooling(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    kind, inputs = ("AveragePool" if layer.integer(0, 0) else "MaxPool"), [graph.name(layer.bottoms[0])]
    if layer.integer(4, 0):
        return graph.node(f"Global{kind}", layer, inputs)
    mode = layer.integer(5, 0)
    if layer.integer(7, 0) or mode > 1:
        raise FormatError(f"layer {layer.name} pools adaptively, or with SAME padding", "export it otherwise")
    more = _padding(layer, 3, 14, 13, 15)
    if kind == "AveragePool":
        more["count_include_pad"] = layer.integer(6, 0)
    return graph.node(kind, layer, inputs, kernel_shape=_pair(layer, 1, 0), strides=_pair(layer, 2, 1),
                      ceil_mode=int(mode == 0), **more)  # fmt: skip


def _reshape(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    sizes = [layer.integer(key, UNSET) for key in (2, 1, 0)]  # channels, height, width
    shape = graph.weight(f"{layer.name}.shape", np.array([1, *(size for size in sizes if size != UNSET)], np.int64))
    return graph.node("Reshape", layer, [graph.name(layer.bottoms[0]), shape])


def _interp(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    kind, factors = layer.integer(0, 0), [_real(layer, 1, 1), _real(layer, 2, 1)]
    if kind not in (1, 2) or layer.integer(3, 0) or layer.integer(4, 0) or layer.integer(6, 0):
        raise FormatError(
            f"layer {layer.name} interpolates by {kind}, to a size or with aligned corners",
            "known: nearest (1) and bilinear (2) by factors",
        )
    scales = graph.weight(f"{layer.name}.scales", np.array([1, 1, *factors], np.float32))
    how = (
        {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        if kind == 1
        else {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    )
    return graph.node("Resize", layer, [graph.name(layer.bottoms[0]), "", scales], **how)


def _axis(layer: Layer) -> int:
    """ncnn's axes have no batch."""
    axis = layer.integer(0, 0)
    return axis if axis < 0 else axis + 1


def _relu(graph: _Graph, layer: Layer, blobs: list[memoryview]) -> str:
    slope, inputs = _real(layer, 0, 0), [graph.name(layer.bottoms[0])]
    return graph.node("LeakyRelu", layer, inputs, alpha=slope) if slope else graph.node("Relu", layer, inputs)


LAYERS: dict[str, Node] = {
    "BinaryOp": _binary,
    "Concat": lambda graph, layer, _: graph.node("Concat", layer, [*map(graph.name, layer.bottoms)], axis=_axis(layer)),
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Deconvolution": _deconvolution,
    "DeconvolutionDepthWise": _deconvolution,
    "Dropout": lambda graph, layer, _: graph.name(layer.bottoms[0]),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "InnerProduct": _inner_product,
    "Interp": _interp,
    "Pooling": _pooling,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Sigmoid": lambda graph, layer, _: graph.node("Sigmoid", layer, [graph.name(layer.bottoms[0])]),
    "Softmax": lambda graph, layer, _: graph.node("Softmax", layer, [graph.name(layer.bottoms[0])], axis=_axis(layer)),
}
