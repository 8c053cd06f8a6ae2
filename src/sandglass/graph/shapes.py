"""Shapes of a graph: a fixed input size for one image, or open sides for images of many sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from sandglass.core.errors import GraphError
from sandglass.graph.index import GraphIndex

Size = tuple[int, int]


def fix_input(model: onnx.ModelProto, size: Size) -> None:
    """Set the shape of the image input to (1, 3, height, width), and remove the shapes of other tensors.

    Changes the model. Raises GraphError as `check_input` does.
    """
    check_input(model, size)
    for dim, length in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, *size), strict=True):
        dim.dim_value = length
    forget_shapes(model)


def check_input(model: onnx.ModelProto, size: Size) -> None:
    """Raise GraphError if the model has several inputs, or one with another fixed shape or element type."""
    if len(model.graph.input) != 1:
        names = ", ".join(value.name for value in model.graph.input)
        raise GraphError(
            f"the graph has {len(model.graph.input)} inputs ({names}), expected one image", "split the model"
        )
    value = model.graph.input[0]
    expected = (1, 3, *size)
    element_type = value.type.tensor_type.elem_type
    if element_type != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(element_type).lower()
        shown = name if value.type.HasField("tensor_type") else "no tensor"
        raise GraphError(
            f"the input {value.name} is of type {shown}, expected float",
            "export the model with a float input: the card says how images are normalized",
        )
    dims = value.type.tensor_type.shape.dim
    fixed = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
    if len(fixed) != 4 or any(dim not in (None, side) for dim, side in zip(fixed[1:], expected[1:], strict=True)):
        shape = [dim or "?" for dim in fixed]
        channels_last = len(fixed) == 4 and fixed[3] == 3
        fix = "export the model with channels first" if channels_last else "set the size in the card to the graph's"
        raise GraphError(f"the input {value.name} has the shape {shape}, but the card says {list(expected)}", fix)


def free_sides(model: onnx.ModelProto) -> None:
    """Make height and width of the image open in a static graph for one image. Changes the model.

    A Resize to a constant size becomes a Resize by a constant factor. The graph may still fail at another size, because
    other constants can depend on the size; only a run shows this.
    """
    _resize_by_factors(model)
    for value in model.graph.input:
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
            dim.dim_param = name
    forget_shapes(model)


def at_size(model: onnx.ModelProto, size: Size) -> onnx.ModelProto:
    """The graph for one image of another `size`, with inferred shapes, from a static or open one. Changes the model."""
    free_sides(model)
    fix_input(model, size)
    return onnx.shape_inference.infer_shapes(model)


def closed(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A graph with open sides at the size of its `inputs`, (batch, channels, height, width); a static one unchanged."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if not any(dim.dim_param for dim in dims):
        return model
    height, width = inputs[model.graph.input[0].name].shape[2:]
    return at_size(model, (height, width))


def inferred_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes by name, from shape inference: of inputs, outputs and tensors between them; an unknown length is 0."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors and weights by name, from shape inference, without those with an open dimension."""
    weights = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    return weights | {name: shape for name, shape in inferred_shapes(model).items() if all(shape)}


def has_open_outputs(model: onnx.ModelProto) -> bool:
    """Whether an output has no shape, or a shape that is not fixed."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.output]
    return not all(dims and all(dim.dim_value > 0 for dim in dims) for dims in shapes)


def set_output_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the shapes of outputs, by name, into a model."""
    for value in model.graph.output:
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in shapes[value.name]:
            shape.dim.add().dim_value = size


def forget_shapes(model: onnx.ModelProto) -> None:
    """Remove the shapes of all tensors but the inputs, so that they are inferred again. Changes the model."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()


def _resize_by_factors(model: onnx.ModelProto) -> None:
    """Give each Resize with a constant size the equal constant factors. Changes the model."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    graph = GraphIndex(model)
    for node in graph:
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
            if before and len(before) == len(after) and all(before) and all(after):
                factors = np.array(after, np.float32) / np.array(before, np.float32)
                constant = graph.add_constant(f"{node.name}.factors", factors)
                graph.set_inputs(node, [*node.input[:2], constant])
