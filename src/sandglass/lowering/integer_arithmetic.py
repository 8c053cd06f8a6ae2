"""Sums and products of integers, in the forms for which ONNX Runtime has integer kernels."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.lowering.transposed_conv import MARK

BYTES = 255  # largest byte


def sums_and_products(model: onnx.ModelProto) -> None:
    """Write the operators between rounded tensors as sums and products of rounded tensors. Changes the model.

    A constant number that is added or multiplied becomes a byte with a scale. Hard swish, x * min(max(x + 3, 0), 6) /
    6, becomes the product of x and a gate: x + 3 is rounded to bytes with the scale 6 / 255, which clips it to 0 .. 6.
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
    """Replace the constant numbers among the inputs of a node by bytes with a scale."""
    for i, name in enumerate(list(node.input)):
        values = graph.value(name)
        if values is not None and values.size == 1:
            number = _number(graph, graph.fresh(f"{node.name}.number{i}"), values)
            graph.insert_before(node, [number])
            graph.set_input(node, i, number.output[0])


def _number(graph: GraphIndex, output: str, values: np.ndarray) -> onnx.NodeProto:
    """A DequantizeLinear that gives a constant number, from the byte that is farthest from the zero point."""
    value = float(values.item())
    byte, zero = (BYTES, 0) if value > 0 else (0, BYTES)
    scale = np.float32(max(abs(value), 1e-12) / BYTES)
    stored = graph.add_constant(f"{output}.byte", np.full(values.shape, byte, np.uint8))
    return _dequantize(graph, stored, output, scale, zero)


def _hard_swish(graph: GraphIndex, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes of a hard swish: sum, rounding and product, with names of parts of the layer before it."""
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
    """The node whose output is rounded to the tensor `rounded`; None for an input of the graph."""
    dequantize = graph.producer(rounded, "DequantizeLinear")
    quantize = graph.producer(dequantize.input[0]) if dequantize is not None else None
    return graph.producer(quantize.input[0]) if quantize is not None else None


def _dequantize(graph: GraphIndex, integers: str, output: str, scale: np.float32, zero: int) -> onnx.NodeProto:
    inputs = [integers, *_grid(graph, output, scale, zero)]
    return helper.make_node("DequantizeLinear", inputs, [output], graph.fresh(f"{output}.dequantize"))


def _grid(graph: GraphIndex, name: str, scale: np.float32, zero: int) -> list[str]:
    """Add the constants of a scale and a zero point; returns their names."""
    point = graph.add_constant(f"{name}.zero_point", np.array(zero, np.uint8))
    return [graph.add_constant(f"{name}.scale", np.array(scale)), point]
