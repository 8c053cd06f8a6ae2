"""Every n-th pixel, taken by a Slice with steps: written as the pooling of single pixels, which every runtime has.

ncnn cannot slice with steps, and int8 runtimes go back to float for a Slice where integers pass through a pooling.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

SPATIAL = (2, 3)


def strided_slices(model: onnx.ModelProto) -> None:
    """Replace each Slice of a four-dimensional tensor that takes every n-th row and column, in place."""
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    for node in model.graph.node:
        if node.op_type == "Slice" and ranks.get(node.output[0]) == 4:
            steps = _steps([constants.get(name) for name in node.input[1:]])
            if steps:
                node.op_type = "MaxPool"
                del node.input[1:]
                node.attribute.extend(
                    [helper.make_attribute("kernel_shape", [1, 1]), helper.make_attribute("strides", steps)]
                )


def _steps(given: list[onnx.TensorProto | None]) -> list[int]:
    """Steps down and across, from starts, ends, axes and steps; none where they leave out a border or go elsewhere."""
    if len(given) != 4 or any(values is None for values in given):
        return []
    starts, ends, axes, steps = (numpy_helper.to_array(values).ravel().tolist() for values in given if values)
    whole = all(start == 0 and end >= np.iinfo(np.int32).max for start, end in zip(starts, ends, strict=True))
    by_axis = {axis % 4: step for axis, step in zip(axes, steps, strict=True)}
    if not whole or not set(by_axis) <= set(SPATIAL) or min(by_axis.values()) < 1:
        return []
    return [by_axis.get(axis, 1) for axis in SPATIAL]
