"""The parts of a network's outputs that are compared separately: boxes and scores, probabilities as logits.

A softmax or a sigmoid at the end of a network hides rounding errors before it, because 0.99999 stays close to 1. And
boxes in pixels outweigh scores in the same output. So each tensor that a Concat joins is a separate part, and the
result of a softmax or a sigmoid is compared as logarithms:

    boxes  (1, 4, 100) ----------+
                                 Concat -> y (1, 84, 100) -> Transpose -> output (1, 100, 84)
    scores (1, 80, 100) - Sigmoid+                                        boxes: [..., :4], logits of scores: [..., 4:]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.shapes import known_shapes

Space = Literal["values", "log", "logit"]
SPACES: Mapping[str, Space] = {"Softmax": "log", "Sigmoid": "logit"}
MOVES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")  # the same values in another shape
SMALLEST = 1e-7  # least probability, and least distance of a probability from 1: the resolution of float32 near 1


@dataclass(frozen=True)
class OutputPart:
    """A part of an `output`: the entries from `start` to before `stop` along `axis`, or all of it if `axis` is None.

    `name` is the name of the tensor that becomes this part. `space` says how its values are compared.
    """

    name: str
    output: str
    space: Space = "values"
    axis: int | None = None
    start: int = 0
    stop: int = 0

    def values(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The values to compare, float64 in the shape of the part."""
        values = outputs[self.output]
        if self.axis is not None:
            values = values.take(range(self.start, self.stop), axis=self.axis)
        values = values.astype(np.float64)
        if self.space == "values":
            return values
        below = np.log(np.clip(values, SMALLEST, 1.0))
        return below if self.space == "log" else below - np.log(np.clip(1.0 - values, SMALLEST, 1.0))


def whole_outputs(names: Iterable[str]) -> tuple[OutputPart, ...]:
    """Each output as one part with unchanged values, for outputs whose graph is not known."""
    return tuple(OutputPart(name, name) for name in names)


def output_parts(model: onnx.ModelProto) -> tuple[OutputPart, ...]:
    """The parts of all outputs, in their order; an output without a Concat at its end is one part."""
    graph, shapes = GraphIndex(model), known_shapes(model)
    return tuple(part for value in model.graph.output for part in _parts(graph, shapes, value.name, value.name))


def _parts(
    graph: GraphIndex, shapes: Mapping[str, tuple[int, ...]], tensor: str, output: str
) -> tuple[OutputPart, ...]:
    """The parts of `output`, from the nodes that compute `tensor`, which has the same values in the same shape."""
    node = graph.producer(tensor)
    if node is not None and node.op_type == "Concat" and all(name in shapes for name in node.input):
        return _joined(graph, shapes, node, output)
    if node is not None and node.op_type == "Transpose" and tensor in shapes:
        order = next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), None)
        order = order or list(range(len(shapes[tensor])))[::-1]
        # Axis i of the result is axis order[i] of the input.
        parts = _parts(graph, shapes, node.input[0], output)
        return tuple(part if part.axis is None else replace(part, axis=order.index(part.axis)) for part in parts)
    return (OutputPart(tensor, output, _space(graph, tensor)),)


def _joined(
    graph: GraphIndex, shapes: Mapping[str, tuple[int, ...]], concat: onnx.NodeProto, output: str
) -> tuple[OutputPart, ...]:
    """One part for each tensor that a Concat joins."""
    axis = next(entry.i for entry in concat.attribute if entry.name == "axis") % len(shapes[concat.input[0]])
    ends = np.cumsum([shapes[name][axis] for name in concat.input]).tolist()
    return tuple(
        OutputPart(name, output, _space(graph, name), axis, start, stop)
        for name, start, stop in zip(concat.input, [0, *ends], ends, strict=False)
    )


def _space(graph: GraphIndex, tensor: str) -> Space:
    """The space in which a tensor is compared, from the operator that computes its values before they are moved."""
    node = graph.producer(tensor)
    while node is not None and node.op_type in (*MOVES, "Transpose"):
        node = graph.producer(node.input[0])
    return SPACES.get(node.op_type, "values") if node is not None else "values"
