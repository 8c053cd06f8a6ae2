"""Every n-th pixel, taken by a Slice with steps: written as the pooling of single pixels, which every runtime has.

ncnn cannot slice with steps, and int8 runtimes compute a Slice in float where integers pass through a pooling.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.shapes import inferred_shapes
from sandglass.sources.rewrites import Stage

STAGE: Stage = "simplified"
AFTER: tuple[str, ...] = ("explicit_padding",)  # it corrects shapes
SPATIAL = (2, 3)  # rows and columns


def rewrite(model: onnx.ModelProto) -> None:
    """Replace each Slice of a four-dimensional tensor that takes every n-th row and column."""
    if not any(node.op_type == "Slice" for node in model.graph.node):
        return
    shapes = inferred_shapes(model)
    with GraphIndex(model) as graph:
        for node in graph:
            if node.op_type == "Slice" and len(shapes.get(node.output[0], ())) == 4 and (steps := _steps(graph, node)):
                made = {"kernel_shape": [1, 1], "strides": steps}
                graph.replace(node, [helper.make_node("MaxPool", node.input[:1], node.output, node.name, **made)])


def _steps(graph: GraphIndex, node: onnx.NodeProto) -> list[int]:
    """Steps down and across; none for a Slice that leaves out a border, goes elsewhere, or computes where to."""
    inputs = [graph.value(name) for name in node.input[1:]]
    if len(inputs) != 4 or any(values is None for values in inputs):
        return []
    starts, ends, axes, steps = (values.ravel().tolist() for values in inputs if values is not None)
    whole = all(start == 0 and end >= np.iinfo(np.int32).max for start, end in zip(starts, ends, strict=True))
    by_axis = {axis % 4: step for axis, step in zip(axes, steps, strict=True)}
    if not whole or not set(by_axis) <= set(SPATIAL) or min(by_axis.values()) < 1:
        return []
    return [by_axis.get(axis, 1) for axis in SPATIAL]
