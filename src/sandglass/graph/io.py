"""Reading graphs: clear errors for what is no ONNX file, and static shapes by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from sandglass.core.errors import GraphError
from sandglass.core.files import atomic_file
from sandglass.core.reading import open_file

MOST_ELEMENTS = 1 << 31  # of a weight: an ONNX file holds 2 GiB


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its weights. Raises GraphError when it is missing, truncated or not an ONNX file."""
    try:
        with open_file(path, GraphError) as stream:
            model = onnx.load(stream, format="protobuf", load_external_data=False)
        load_external_data_for_model(model, str(path.parent))  # which refuses files elsewhere, and links
        check_weights(model)
    except DecodeError as error:
        raise GraphError(f"{path} is not an ONNX file, or not a whole one", "export or download it again") from error
    except (OSError, OverflowError, ValueError, onnx.checker.ValidationError) as error:
        raise GraphError(f"cannot read {path}: {error}", "check the path, and weights in files beside it") from error
    if not model.graph.node or not model.opset_import:
        raise GraphError(f"{path} is not an ONNX model: it has no nodes", "give a .onnx file")
    return model


def check_weights(model: onnx.ModelProto) -> None:
    """Raise ValueError for a weight of an unknown type, or with other bytes than its shape needs."""
    for entry in model.graph.initializer:
        if entry.data_type not in onnx.TensorProto.DataType.values() or entry.data_type == onnx.TensorProto.UNDEFINED:
            raise ValueError(f"the weight {entry.name} is of the unknown type {entry.data_type}")
        if min(entry.dims, default=0) < 0 or math.prod(entry.dims) > MOST_ELEMENTS:
            raise ValueError(f"the weight {entry.name} has the shape {list(entry.dims)}")
        if entry.data_type != onnx.TensorProto.STRING:
            numpy_helper.to_array(entry)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph into one file, atomically. Raises GraphError for one over ONNX's 2 GiB."""
    with atomic_file(path) as temporary:
        try:
            temporary.write_bytes(model.SerializeToString())
        except (EncodeError, ValueError) as error:
            raise GraphError(
                f"{path}: a graph of 2 GiB or more fits no single ONNX file", "use a smaller model"
            ) from error


def drop_weights(model: onnx.ModelProto) -> None:
    """Free the values of all initializers; their names and shapes stay."""
    for initializer in model.graph.initializer:
        initializer.ClearField("raw_data")


def set_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
    """The model, changed, with `nodes`, which may be its own, in place of those it has; shapes are forgotten."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    return model


def readers(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    """The nodes that read a tensor, in order."""
    return [node for node in model.graph.node if tensor in node.input]


def sole_reader(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto | None:
    """The node that alone reads a tensor, else None; an output of the graph is read by others too."""
    if any(value.name == tensor for value in model.graph.output):
        return None
    found = readers(model, tensor)
    return found[0] if len(found) == 1 else None


def number(constants: Mapping[str, onnx.TensorProto], name: str) -> float | None:
    """The value of a constant that has one element; None for any other tensor."""
    values = numpy_helper.to_array(constants[name]) if name in constants else None
    return float(values.item()) if values is not None and values.size == 1 else None


def drop_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed, without nodes that lead to no output, and without weights that no node reads."""
    read, kept = {value.name for value in model.graph.output}, []
    for node in reversed(model.graph.node):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read |= _read(node)
    set_nodes(model, reversed(kept))
    weights = onnx.GraphProto()
    weights.initializer.extend(entry for entry in model.graph.initializer if entry.name in read)
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights.initializer)
    return model


def _read(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node reads, in its branches or loops too."""
    inner = [part for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) for part in graph.node]
    return set(node.input).union(*map(_read, inner))


def static_inputs(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the graph's inputs by name, weights left out. Raises GraphError for a dimension that is not fixed."""
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
            f"{value.name} has the shape {shape}, and a static one is needed", "export it with fixed sizes"
        )
    return fixed
