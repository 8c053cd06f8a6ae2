"""Sums and products between integers, in the forms that ONNX Runtime has integer kernels for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.io import drop_unread, set_nodes, sole_reader
from sandglass.graph.names import Names
from sandglass.lowering.transposed_conv import MARK

BYTES = 255


def sums_and_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with what stands between rounded tensors as sums and products of rounded tensors alone.

    A number that is added or multiplied is a byte with a scale of its own. Hard swish, x * min(max(x + 3, 0), 6) / 6,
    is a product with a gate, whose ends are those of its bytes: rounding the sum cuts it off. The model is changed.
    """
    writer = _Writer(model)
    nodes = [new for node in model.graph.node for new in writer.written(node)]
    return drop_unread(set_nodes(model, nodes))


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.names = model, Names(model)
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}

    def written(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """A node, or those in its place, in order."""
        if node.op_type not in ("Add", "HardSwish", "Mul"):
            return [node]
        rounded = any(self._maker(name) == "DequantizeLinear" for name in node.input)
        after = sole_reader(self.model, node.output[0])
        if not rounded or after is None or after.op_type != "QuantizeLinear":
            return [node]
        return self._hard_swish(node) if node.op_type == "HardSwish" else [*self._numbers(node), node]

    def _maker(self, name: str) -> str:
        return self.makers[name].op_type if name in self.makers else ""

    def _numbers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What makes the numbers that a node reads, which it then reads as bytes."""
        nodes = []
        for i, name in enumerate(node.input):
            values = numpy_helper.to_array(self.constants[name]) if name in self.constants else None
            if values is not None and values.size == 1:
                nodes.append(self._number(self.names.fresh(f"{node.name}.number{i}"), values))
                node.input[i] = nodes[-1].output[0]
        return nodes

    def _number(self, name: str, values: np.ndarray) -> onnx.NodeProto:
        """A number as the byte that is farthest from the zero point, under a fresh `name`."""
        value = float(values.item())
        byte, zero = (BYTES, 0) if value > 0 else (0, BYTES)
        scale = np.float32(max(abs(value), 1e-12) / BYTES)
        return self._dequantize(
            self._constant(f"{name}.byte", np.full(values.shape, byte, np.uint8)), name, scale, zero
        )

    def _hard_swish(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Sum, rounding and product, as parts of the layer whose result is read."""
        data, behind = node.input[0], self.makers[self.makers[node.input[0]].input[0]].input[0]
        layer = self.makers[behind].name if behind in self.makers else node.name
        three, total, gate, product = (
            self.names.fresh(f"{layer}{MARK}.{part}") for part in ("three", "sum", "gate", "product")
        )
        grid = self._grid(total, np.float32(6 / BYTES), 0)
        return [
            self._number(three, np.array(3.0)),
            helper.make_node("Add", [data, three], [total], total),
            helper.make_node("QuantizeLinear", [total, *grid], [f"{total}.q"], f"{total}.quantize"),
            self._dequantize(f"{total}.q", gate, np.float32(1 / BYTES), 0),
            helper.make_node("Mul", [data, gate], [node.output[0]], product),
        ]

    def _dequantize(self, integers: str, made: str, scale: np.float32, zero: int) -> onnx.NodeProto:
        inputs = [integers, *self._grid(made, scale, zero)]
        return helper.make_node("DequantizeLinear", inputs, [made], f"{made}.dequantize")

    def _grid(self, name: str, scale: np.float32, zero: int) -> list[str]:
        """The names of a scale and of a zero point."""
        point = self._constant(f"{name}.zero_point", np.array(zero, np.uint8))
        return [self._constant(f"{name}.scale", np.array(scale)), point]

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name
