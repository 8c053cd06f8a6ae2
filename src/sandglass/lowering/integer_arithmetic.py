"""Sums and products between integers, in the forms that ONNX Runtime has integer kernels for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.lowering.transposed_conv import MARK

BYTES = 255


def sums_and_products(model: onnx.ModelProto) -> None:
    """Write the operators between rounded tensors as sums and products of rounded tensors alone.

    A number that is added or multiplied is a byte with a scale of its own. Hard swish, x * min(max(x + 3, 0), 6) / 6,
    is a product with a gate, whose ends are those of its bytes: rounding the sum cuts it off.
    """
    with GraphIndex(model) as graph:
        for node in graph:
            if node.op_type in ("Add", "HardSwish", "Mul") and _between_rounded(graph, node):
                if node.op_type == "HardSwish":
                    graph.replace(node, _hard_swish(graph, node))
                else:
                    _round_numbers(graph, node)


def _between_rounded(graph: GraphIndex, node: onnx.NodeProto) -> bool:
    rounded = any(graph.producer(name, "DequantizeLinear") is not None for name in node.input)
    return rounded and graph.only_consumer(node.output[0], "QuantizeLinear") is not None


def _round_numbers(graph: GraphIndex, node: onnx.NodeProto) -> None:
    """Let a node read the numbers among its inputs as bytes."""
    for i, name in enumerate(list(node.input)):
        values = graph.value(name)
        if values is not None and values.size == 1:
            number = _number(graph, graph.fresh(f"{node.name}.number{i}"), values)
            graph.insert_before(node, [number])
            graph.set_input(node, i, number.output[0])


def _number(graph: GraphIndex, made: str, values: np.ndarray) -> onnx.NodeProto:
    """A node that makes a number from the byte that is farthest from the zero point."""
    value = float(values.item())
    byte, zero = (BYTES, 0) if value > 0 else (0, BYTES)
    scale = np.float32(max(abs(value), 1e-12) / BYTES)
    stored = graph.add_constant(f"{made}.byte", np.full(values.shape, byte, np.uint8))
    return _dequantize(graph, stored, made, scale, zero)


def _hard_swish(graph: GraphIndex, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Sum, rounding and product, as parts of the layer whose result is read."""
    data = node.input[0]
    layer = _rounded_layer(graph, data) or node
    three, total, gate, product = (
        graph.fresh(f"{layer.name}{MARK}.{part}") for part in ("three", "sum", "gate", "product")
    )
    grid = _grid(graph, total, np.float32(6 / BYTES), 0)
    integers, quantize = graph.fresh(f"{total}.q"), graph.fresh(f"{total}.quantize")
    return [
        _number(graph, three, np.array(3.0)),
        helper.make_node("Add", [data, three], [total], total),
        helper.make_node("QuantizeLinear", [total, *grid], [integers], quantize),
        _dequantize(graph, integers, gate, np.float32(1 / BYTES), 0),
        helper.make_node("Mul", [data, gate], [node.output[0]], product),
    ]


def _rounded_layer(graph: GraphIndex, rounded: str) -> onnx.NodeProto | None:
    """The node whose result a rounding pair rounds; None for an input of the graph."""
    dequantize = graph.producer(rounded, "DequantizeLinear")
    quantize = graph.producer(dequantize.input[0]) if dequantize is not None else None
    return graph.producer(quantize.input[0]) if quantize is not None else None


def _dequantize(graph: GraphIndex, integers: str, made: str, scale: np.float32, zero: int) -> onnx.NodeProto:
    inputs = [integers, *_grid(graph, made, scale, zero)]
    return helper.make_node("DequantizeLinear", inputs, [made], graph.fresh(f"{made}.dequantize"))


def _grid(graph: GraphIndex, name: str, scale: np.float32, zero: int) -> list[str]:
    """The names of a scale and of a zero point."""
    point = graph.add_constant(f"{name}.zero_point", np.array(zero, np.uint8))
    return [graph.add_constant(f"{name}.scale", np.array(scale)), point]
