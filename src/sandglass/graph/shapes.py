"""Free dimensions of the input, fixed to one image of the card's size."""

from __future__ import annotations

import onnx

from sandglass.errors import GraphError


def fix_input(model: onnx.ModelProto, size: tuple[int, int]) -> None:
    """Set the image input to 1 x 3 x height x width in place, and forget shapes that followed from another.

    Raises GraphError when the model has several inputs, or one with another fixed shape.
    """
    if len(model.graph.input) != 1:
        names = ", ".join(value.name for value in model.graph.input)
        raise GraphError(
            f"the graph has {len(model.graph.input)} inputs ({names}), expected one image", "split the model"
        )
    value = model.graph.input[0]
    wanted = (1, 3, *size)
    dims = value.type.tensor_type.shape.dim
    fixed = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
    if len(fixed) != 4 or any(have not in (None, want) for have, want in zip(fixed[1:], wanted[1:], strict=True)):
        shape = [dim or "?" for dim in fixed]
        raise GraphError(f"the input {value.name} has the shape {shape}, the card says {list(wanted)}", "mend the card")
    for dim, want in zip(dims, wanted, strict=True):
        dim.dim_value = want
    del model.graph.value_info[:]
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
