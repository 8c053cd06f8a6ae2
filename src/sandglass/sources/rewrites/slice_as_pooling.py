"""Replace a Slice with steps, which takes every n-th pixel, by a pooling of single pixels, which every runtime has.

ncnn does not support slices with steps. Int8 runtimes compute a Slice in float, but a pooling keeps integers.
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
    """Replace each Slice that takes every n-th row and column of a four-dimensional tensor, in place."""
    if not any(node.op_type == "Slice" for node in model.graph.node):
        return
    shapes = inferred_shapes(model)
    with GraphIndex(model) as graph:
        for node in graph:
            if node.op_type == "Slice" and len(shapes.get(node.output[0], ())) == 4 and (steps := _steps(graph, node)):
                window = {"kernel_shape": [1, 1], "strides": steps}
                graph.replace(node, [helper.make_node("MaxPool", node.input[:1], node.output, node.name, **window)])


def _steps(graph: GraphIndex, node: onnx.NodeProto) -> list[int]:
    """The vertical and the horizontal step; empty for a Slice with a border, other axes, or computed limits."""
    inputs = [graph.value(name) for name in node.input[1:]]
    if len(inputs) != 4 or any(values is None for values in inputs):
        return []
    starts, ends, axes, steps = (values.ravel().tolist() for values in inputs if values is not None)
    whole = all(start == 0 and end >= np.iinfo(np.int32).max for start, end in zip(starts, ends, strict=True))
    by_axis = {axis % 4: step for axis, step in zip(axes, steps, strict=True)}
    if not whole or not set(by_axis) <= set(SPATIAL) or min(by_axis.values()) < 1:
        return []
    return [by_axis.get(axis, 1) for axis in SPATIAL]
