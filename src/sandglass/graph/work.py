"""How much a graph computes: multiply-accumulates by layer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TypeVar

import onnx

from sandglass.graph.layers import OPERATORS
from sandglass.graph.shapes import inferred_shapes

T = TypeVar("T")
AFFORDED, LEAST_INPUTS = 24e9, 4  # multiply-accumulates of one trial


def inputs_to_try(macs: int, most: int) -> int:
    """How many inputs to try things on, `most` or less: fewer, the more a network computes for one."""
    return min(most, max(LEAST_INPUTS, int(AFFORDED / max(1, macs))))


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items at even distances, or all of fewer, in their order."""
    return [items[i * len(items) // count] for i in range(count)] if count < len(items) else list(items)


def layer_work(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Of every layer with weights, by node name: multiply-accumulates for one image, and how many make one output.

    Weights may stand behind the nodes that turn their integers back to float. A layer whose shapes cannot be inferred
    is left out.
    """
    shapes = {entry.name: tuple(entry.dims) for entry in model.graph.initializer} | inferred_shapes(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in OPERATORS:
            around = [shapes.get(name, ()) for name in (*node.input[:2], node.output[0])]
            if all(around):
                macs = multiply_accumulates(node.op_type, *around)
                found[node.name] = (macs, macs // max(1, math.prod(around[2])))
    return found


def integer_share(model: onnx.ModelProto, layers: Collection[str]) -> float:
    """Share of the multiply-accumulates that are in `layers`, the names of those that run in int8: 0 to 1."""
    work = {name: macs for name, (macs, _) in layer_work(model).items()}
    return sum(macs for name, macs in work.items() if name in layers) / max(1, sum(work.values()))


def multiply_accumulates(operator: str, data: Sequence[int], weight: Sequence[int], output: Sequence[int]) -> int:
    """Multiply-accumulates of a layer of the graph from the shapes of its input, weight and output.

    A convolution multiplies each output by one filter, a transposed one each input; a product of matrices each output
    by a row as long as the input's last dimension.
    """
    if operator in ("Gemm", "MatMul"):
        return math.prod(output) * int(data[-1])
    return math.prod(data if operator == "ConvTranspose" else output) * math.prod(weight[1:])
