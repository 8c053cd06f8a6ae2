"""Convert graphs with a fixed batch of several images to graphs for one image."""

from __future__ import annotations

import numpy as np
import onnx

from sandglass.graph.index import GraphIndex
from sandglass.graph.shapes import forget_shapes
from sandglass.sources.rewrites import Stage

STAGE: Stage = "converted"
AFTER: tuple[str, ...] = ("constants_as_weights",)

# Operators with a constant shape, and the index of this input.
SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "Resize": 3, "ConstantOfShape": 0}
# Operators that may read a constant with one entry for each image, all equal.
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Where", "Concat")


def fixed_batch(model: onnx.ModelProto) -> int:
    """The fixed batch of the first input; 1 if the batch is dynamic."""
    dims = model.graph.input[0].type.tensor_type.shape.dim if model.graph.input else []
    return max(1, dims[0].dim_value) if dims else 1


def rewrite(model: onnx.ModelProto) -> None:
    """Change constants that depend on the batch, in place: shapes, and values that are repeated for each image.

    The caller must compare the result with the original: a constant may contain the number of images by chance.
    """
    if (batch := fixed_batch(model)) == 1:
        return
    with GraphIndex(model) as graph:
        for node in graph:
            for i, name in enumerate(list(node.input)):
                values = graph.value(name)
                changed = _divided(node.op_type, i, values, batch) if values is not None else None
                if changed is not None:
                    graph.set_input(node, i, graph.add_constant(f"{name}.one", changed))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    forget_shapes(model)


def _divided(operator: str, place: int, values: np.ndarray, batch: int) -> np.ndarray | None:
    """The constant for one image; None if the constant does not depend on the batch."""
    if SHAPE_INPUTS.get(operator) == place and values.size and values[0] > 0 and values[0] % batch == 0:
        return np.concatenate([values[:1] // batch, values[1:]]).astype(values.dtype)
    if operator in ELEMENTWISE and values.ndim > 1 and len(values) == batch and (values == values[:1]).all():
        return np.ascontiguousarray(values[:1])
    return None
