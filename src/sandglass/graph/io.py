"""Read, check and write ONNX files; the static shapes of inputs and outputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from sandglass.core.errors import GraphError
from sandglass.core.files import atomic_file
from sandglass.core.reading import open_file

MOST_ELEMENTS = 1 << 31  # elements of a weight, at most: an ONNX file holds 2 GiB


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its weights. Raises GraphError if it is missing, truncated or not an ONNX file."""
    try:
        with open_file(path, GraphError) as stream:
            model = onnx.load(stream, format="protobuf", load_external_data=False)
        load_external_data_for_model(model, str(path.parent))  # this refuses files in other folders, and links
        check_weights(model)
    except DecodeError as error:
        raise GraphError(f"{path} is not an ONNX file, or it is incomplete", "export or download it again") from error
    except (OSError, OverflowError, ValueError, onnx.checker.ValidationError) as error:
        raise GraphError(f"cannot read {path}: {error}", "check the path, and the files with its weights") from error
    if not model.graph.node or not model.opset_import:
        raise GraphError(f"{path} is not an ONNX model: it has no nodes", "give a .onnx file")
    return model


def check_weights(model: onnx.ModelProto) -> None:
    """Raise ValueError for a weight with an unknown type, or with a number of bytes that does not match its shape."""
    for entry in model.graph.initializer:
        if entry.data_type not in onnx.TensorProto.DataType.values() or entry.data_type == onnx.TensorProto.UNDEFINED:
            raise ValueError(f"the weight {entry.name} has the unknown type {entry.data_type}")
        if min(entry.dims, default=0) < 0 or math.prod(entry.dims) > MOST_ELEMENTS:
            raise ValueError(f"the weight {entry.name} has the impossible shape {list(entry.dims)}")
        if entry.data_type != onnx.TensorProto.STRING:
            numpy_helper.to_array(entry)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph to one file, atomically. Raises GraphError if it exceeds 2 GiB, the limit of ONNX."""
    with atomic_file(path) as temporary:
        try:
            temporary.write_bytes(model.SerializeToString())
        except (EncodeError, ValueError) as error:
            raise GraphError(
                f"{path}: the graph is 2 GiB or larger, and an ONNX file cannot hold it", "use a smaller model"
            ) from error


def static_inputs(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the graph's inputs by name, without weights. Raises GraphError for a dimension that is not fixed."""
    weights = {initializer.name for initializer in model.graph.initializer}
    return {value.name: _shape(value) for value in model.graph.input if value.name not in weights}


def static_outputs(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the graph's outputs by name. Raises GraphError for a dimension that is not fixed."""
    return {value.name: _shape(value) for value in model.graph.output}


def _shape(value: Any) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    fixed = tuple(dim for dim in shape if isinstance(dim, int) and dim > 0)
    if not shape or len(fixed) != len(shape):
        raise GraphError(
            f"{value.name} has the shape {shape}, but a static shape is needed", "export it with fixed sizes"
        )
    return fixed
