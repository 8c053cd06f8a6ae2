"""Convert a quantized graph to float.

A tensor that was quantized is still clipped to its range, because quantizers remove a ReLU if the range has the same
effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from sandglass.core.errors import GraphError
from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import attributes_of
from sandglass.sources.quantized import reads_integers
from sandglass.sources.rewrites import Stage

STAGE: Stage = "requested"
AFTER: tuple[str, ...] = ()

# Operators that only move integers. Their results have the grid (scale and zero point) of their first input.
MOVES = (
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Resize", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip


def rewrite(model: onnx.ModelProto) -> None:
    """Convert a quantized graph to the float network that it represents, in place.

    Weights become the values that their integers represent. Raises GraphError with the name of the node for an unknown
    operator on integers, and for a scale that is computed at run time.
    """
    with GraphIndex(model) as graph:
        writer = _Floats(graph)
        for node in graph:
            if not reads_integers(node):
                writer.follow(node)
            elif node.op_type in WRITERS:
                WRITERS[node.op_type](writer, node)
                graph.replace(node, writer.written())
            else:
                raise GraphError(f"{node.op_type} {node.name!r} cannot be converted to float",
                                 "leave out --dequantize, or give the float model")  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """The values that integers represent: value = (integer - zero) * scale. The type of `zero` gives their range.

    `scale` and `zero` have one element, or one for each channel along `axis`.
    """

    scale: np.ndarray
    zero: np.ndarray
    axis: int = 1

    def shaped(self, values: np.ndarray, rank: int) -> np.ndarray:
        """A scale or zero point, reshaped for broadcasting over a tensor of rank `rank`, float64."""
        values = np.asarray(values, np.float64)
        if values.size == 1 or not rank:
            return values.reshape(())
        return values.reshape([-1 if i == self.axis % rank else 1 for i in range(rank)])

    def values(self, integers: np.ndarray) -> np.ndarray:
        """The values that integers represent, float32."""
        scale, zero = (self.shaped(part, integers.ndim) for part in (self.scale, self.zero))
        return ((integers.astype(np.float64) - zero) * scale).astype(np.float32)

    def integers(self, values: np.ndarray) -> np.ndarray:
        """The integers whose values are nearest to `values`, in the type of `zero`."""
        scale, zero = (self.shaped(part, values.ndim) for part in (self.scale, self.zero))
        limits = np.iinfo(self.zero.dtype)
        return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(self.zero.dtype)

    def ends(self) -> list[np.ndarray]:
        """The smallest and the largest value of a grid with a single scale, float32."""
        limits = np.iinfo(self.zero.dtype)
        return [np.array((end - self.zero.item()) * self.scale.item(), np.float32) for end in (limits.min, limits.max)]

    def same(self, other: Grid) -> bool:
        """Whether integers represent the same values on another grid."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)


class _Floats:
    """The grid of each tensor of integers, and the float nodes that replace the current node."""

    def __init__(self, graph: GraphIndex) -> None:
        self.graph = graph
        self.grids: dict[str, Grid] = {}
        self.rounded_constants: dict[str, np.ndarray] = {}  # integers of constants, by the output of QuantizeLinear
        self._nodes: list[onnx.NodeProto] = []

    def written(self) -> list[onnx.NodeProto]:
        """The nodes written since the last call."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def follow(self, node: onnx.NodeProto) -> None:
        """Record the grid of the results of a node that does not change: if it moves integers, the grid of its inputs.

        Raises GraphError for a node that computes with integers.
        """
        grids = [self.grids[name] for name in node.input if name in self.grids]
        if grids and node.op_type in MOVES and all(grid.same(grids[0]) for grid in grids):
            self.grids.update(dict.fromkeys(node.output, grids[0]))
        elif grids and node.op_type != "Cast":
            raise GraphError(f"{node.op_type} {node.name!r} computes with integers and cannot be converted to float",
                             "leave out --dequantize, or give the float model")  # fmt: skip

    def value(self, tensor: str) -> np.ndarray | None:
        """The values of a constant, or the integers of a constant that the graph quantizes; None for other tensors."""
        values = self.rounded_constants.get(tensor)
        return self.graph.value(tensor) if values is None else values

    def write(self, operator: str, inputs: Sequence[str], output: str, name: str, **attributes: Any) -> None:
        """Add a node."""
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name, **attributes))

    def grid(self, node: onnx.NodeProto, scale: int, zero: int, axis: int = 1) -> Grid:
        """The grid in the inputs of a node with the indices `scale` and `zero`.

        Raises GraphError if the scale is computed at run time or has blocks.
        """
        names = [node.input[i] if i < len(node.input) else "" for i in (scale, zero)]
        scales, zeros = map(self.value, names)
        if scales is None or (names[1] and zeros is None):
            raise GraphError(
                f"the scale of {node.op_type} {node.name!r} is computed at run time", "give the float model"
            )
        if scales.ndim > 1:
            raise GraphError(f"{node.op_type} {node.name!r} has scales in blocks", "give the float model")
        return Grid(scales, np.zeros_like(scales, np.uint8) if zeros is None else zeros, axis)

    def operand(self, node: onnx.NodeProto, place: int, grid: Grid) -> str:
        """An input of a node in float: a constant with the values of its integers, or the tensor itself."""
        name = node.input[place]
        integers = self.value(name)
        if integers is not None:
            return self.graph.add_constant(f"{name}.float", grid.values(integers))
        if name not in self.grids or not self.grids[name].same(grid):
            raise GraphError(f"{node.op_type} {node.name!r} reads {name} with another scale or zero point than it has",
                             "give the float model")  # fmt: skip
        return name

    def rounded(self, source: str, output: str, grid: Grid) -> None:
        """Clip a tensor to the range of a grid, without rounding it."""
        if grid.scale.size != 1 or grid.zero.size != 1:
            raise GraphError(f"{output} has a scale for each channel, expected a single one", "give the float model")
        self.grids[output] = grid
        ends = zip(("low", "high"), grid.ends(), strict=True)
        names = [self.graph.add_constant(f"{output}.{name}", end) for name, end in ends]
        self.write("Clip", [source, *names], output, self.graph.fresh(f"{output}.clip"))

    def layer(self, node: onnx.NodeProto, operator: str, inputs: Sequence[str], grid: Grid | None) -> None:
        """Add the float form of a node, with its name and attributes, clipped to the range of `grid` if it is given."""
        output = node.output[0] if grid is None else self.graph.fresh(f"{node.output[0]}.sum")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in ATTRIBUTES}
        self.write(operator, inputs, output, node.name, **attributes)
        if grid is not None:
            self.rounded(output, node.output[0], grid)


ATTRIBUTES = (
    "alpha", "auto_pad", "axis", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "pads",
    "strides", "transA", "transB",
)  # fmt: skip


def _quantize(writer: _Floats, node: onnx.NodeProto) -> None:
    axis = attributes_of(node).get("axis", 1)
    grid = writer.grid(node, 1, 2, axis)
    values = writer.value(node.input[0])
    if values is not None:
        writer.rounded_constants[node.output[0]] = grid.integers(values)
    else:
        writer.rounded(node.input[0], node.output[0], grid)


def _dequantize(writer: _Floats, node: onnx.NodeProto) -> None:
    axis = attributes_of(node).get("axis", 1)
    source = writer.operand(node, 0, writer.grid(node, 1, 2, axis))
    writer.write("Identity", [source], node.output[0], node.name)


def _dynamic(writer: _Floats, node: onnx.NodeProto) -> None:
    """DynamicQuantizeLinear, whose scale is computed at run time: the float values themselves, with the scale 1."""
    integers, scale, zero = node.output
    writer.grids[integers] = Grid(np.ones((), np.float32), np.zeros((), np.uint8))
    writer.write("Identity", [node.input[0]], integers, node.name)
    for name, value in ((scale, np.ones((), np.float32)), (zero, np.zeros((), np.uint8))):
        if name:
            _read_constant(writer.graph, name, value)


def _read_constant(graph: GraphIndex, tensor: str, value: np.ndarray) -> None:
    """Make the nodes that read a tensor read a constant instead."""
    constant = graph.add_constant(tensor, value)
    for node in graph.consumers(tensor):
        graph.set_inputs(node, [constant if name == tensor else name for name in node.input])


def _sums(operator: str) -> Callable[[_Floats, onnx.NodeProto], None]:
    """A writer for sums of products of integers. Their values are in units of the product of the inputs' scales."""

    def write(writer: _Floats, node: onnx.NodeProto) -> None:
        inputs = []
        for i in (0, 1):
            name = node.input[i]
            zero = writer.value(node.input[2 + i]) if len(node.input) > 2 + i else None
            constant = writer.value(name) is not None
            grid = Grid(
                np.ones((), np.float32),
                np.zeros((), np.uint8) if zero is None else zero,
                0 if operator == "Conv" else -1,
            )
            if not constant and (name not in writer.grids or writer.grids[name].scale.item() != 1):
                raise GraphError(f"{node.op_type} {node.name!r} reads {name}, whose scale is not dynamic",
                                 "give the float model")  # fmt: skip
            inputs.append(writer.operand(node, i, grid) if constant else name)
        writer.layer(node, operator, inputs, None)

    return write


def _convolution(writer: _Floats, node: onnx.NodeProto) -> None:
    data, weight, output = writer.grid(node, 1, 2), writer.grid(node, 4, 5, axis=0), writer.grid(node, 6, 7)
    inputs = [writer.operand(node, 0, data), writer.operand(node, 3, weight)]
    if len(node.input) > 8 and node.input[8]:
        inputs.append(_bias(writer, node, 8, data, weight))
    writer.layer(node, "Conv", inputs, output)


def _bias(writer: _Floats, node: onnx.NodeProto, place: int, data: Grid, weight: Grid) -> str:
    factor = attributes_of(node).get("alpha", 1.0)
    name = node.input[place]
    integers = writer.value(name)
    if integers is None:
        raise GraphError(f"the bias of {node.op_type} {node.name!r} is computed at run time", "give the float model")
    step = (factor * data.scale.astype(np.float64) * weight.scale).ravel()
    return writer.graph.add_constant(f"{name}.float", (integers * step).astype(np.float32))


def _product(writer: _Floats, node: onnx.NodeProto) -> None:
    first, second, output = writer.grid(node, 1, 2), writer.grid(node, 4, 5, axis=-1), writer.grid(node, 6, 7)
    writer.layer(node, "MatMul", [writer.operand(node, 0, first), writer.operand(node, 3, second)], output)


def _gemm(writer: _Floats, node: onnx.NodeProto) -> None:
    axis = 0 if attributes_of(node).get("transB", 0) else 1
    data, weight = writer.grid(node, 1, 2), writer.grid(node, 4, 5, axis)
    inputs = [writer.operand(node, 0, data), writer.operand(node, 3, weight)]
    if node.input[6]:
        inputs.append(_bias(writer, node, 6, data, weight))
    writer.layer(node, "Gemm", inputs, writer.grid(node, 7, 8) if len(node.input) > 7 and node.input[7] else None)


def _binary(operator: str) -> Callable[[_Floats, onnx.NodeProto], None]:
    def write(writer: _Floats, node: onnx.NodeProto) -> None:
        inputs = [writer.operand(node, i, writer.grid(node, i + 1, i + 2)) for i in (0, 3)]
        writer.layer(node, operator, inputs, writer.grid(node, 6, 7))

    return write


def _unary(operator: str) -> Callable[[_Floats, onnx.NodeProto], None]:
    def write(writer: _Floats, node: onnx.NodeProto) -> None:
        if attributes_of(node).get("channels_last", 0):
            raise GraphError(
                f"{node.op_type} {node.name!r} has channels last, which is not supported", "give the float model"
            )
        writer.layer(node, operator, [writer.operand(node, 0, writer.grid(node, 1, 2))], writer.grid(node, 3, 4))

    return write


def _concat(writer: _Floats, node: onnx.NodeProto) -> None:
    inputs = [writer.operand(node, i, writer.grid(node, i + 1, i + 2)) for i in range(2, len(node.input), 3)]
    writer.layer(node, "Concat", inputs, writer.grid(node, 0, 1))


WRITERS: Mapping[str, Callable[[_Floats, onnx.NodeProto], None]] = {
    "ConvInteger": _sums("Conv"),
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _sums("MatMul"),
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearConcat": _concat,
    "QLinearConv": _convolution,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearMatMul": _product,
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QuantizeLinear": _quantize,
}
