"""The work of a graph: multiply-accumulates by layer, and the number of inputs that a trial can afford."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TypeVar

import onnx

from sandglass.graph.layers import OPERATORS
from sandglass.graph.shapes import inferred_shapes

T = TypeVar("T")
AFFORDED = 24e9  # multiply-accumulates of one trial, at most
LEAST_INPUTS = 4  # inputs of one trial, at least


def inputs_to_try(macs: int, most: int) -> int:
    """The number of inputs for a trial of a network with `macs` multiply-accumulates for one input, at most `most`."""
    return min(most, max(LEAST_INPUTS, int(AFFORDED / max(1, macs))))


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items at even distances, in their order; all items if there are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if count < len(items) else list(items)


def layer_work(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """For each layer, by node name: its multiply-accumulates for one image, and those for one output value.

    Weights may be integers with a DequantizeLinear. A layer whose shapes cannot be inferred is left out.
    """
    shapes = {entry.name: tuple(entry.dims) for entry in model.graph.initializer} | inferred_shapes(model)
    work = {}
    for node in model.graph.node:
        if node.op_type in OPERATORS:
            data, weight, output = (shapes.get(name, ()) for name in (*node.input[:2], node.output[0]))
            if data and weight and output:
                macs = multiply_accumulates(node.op_type, data, weight, output)
                work[node.name] = (macs, macs // max(1, math.prod(output)))
    return work


def integer_share(model: onnx.ModelProto, layers: Collection[str]) -> float:
    """Share of the multiply-accumulates that belong to `layers`, the names of those in int8, 0 to 1."""
    work = {name: macs for name, (macs, _) in layer_work(model).items()}
    return sum(macs for name, macs in work.items() if name in layers) / max(1, sum(work.values()))


def multiply_accumulates(operator: str, data: Sequence[int], weight: Sequence[int], output: Sequence[int]) -> int:
    """Multiply-accumulates of a layer, from the shapes of its input, weight and output.

    A convolution applies one filter for each output value, and a transposed convolution one for each input value. A
    matrix product needs as many for each output value as the last axis of the input is long.
    """
    if operator in ("Gemm", "MatMul"):
        return math.prod(output) * int(data[-1])
    return math.prod(data if operator == "ConvTranspose" else output) * math.prod(weight[1:])
