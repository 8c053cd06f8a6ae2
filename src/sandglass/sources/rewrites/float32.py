"""Convert networks in half, bfloat16 or double precision to float32, the only type that quantization supports."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sandglass.graph.nodes import subgraphs
from sandglass.sources.rewrites import Stage

STAGE: Stage = "exported"
AFTER: tuple[str, ...] = ()
NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
OTHERS = (*NARROW, TensorProto.DOUBLE)
TYPE_ATTRIBUTES = ("to", "dtype", "stash_type")  # attributes whose value is an element type


def is_float32(model: onnx.ModelProto) -> bool:
    """Whether all weights, inputs and casts with a floating-point type are in float32."""
    return not _types(model.graph) & {*OTHERS}


def is_narrow(model: onnx.ModelProto) -> bool:
    """Whether a weight, an input or a cast has a 16-bit floating-point type, so that results are less precise."""
    return bool(_types(model.graph) & {*NARROW})


def rewrite(model: onnx.ModelProto) -> None:
    """Change the types in OTHERS of weights, constants, casts, inputs and outputs to float32, in place."""
    _change_graph(model.graph)
    for function in model.functions:
        _change_nodes(function.node)


def _types(graph: onnx.GraphProto) -> set[int]:
    """The element types of a graph's weights, inputs, casts and constants."""
    types = {entry.data_type for entry in graph.initializer}
    types |= {value.type.tensor_type.elem_type for value in graph.input}
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        types.add(attribute.i if attribute.name in TYPE_ATTRIBUTES else attribute.t.data_type)
    return types.union(*map(_types, subgraphs(graph.node)))


def _change_graph(graph: onnx.GraphProto) -> None:
    for entry in graph.initializer:
        _change_tensor(entry)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in OTHERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    _change_nodes(graph.node)


def _change_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in OTHERS:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _change_tensor(attribute.t)
        for graph in subgraphs([node]):
            _change_graph(graph)


def _change_tensor(entry: onnx.TensorProto) -> None:
    if entry.data_type in OTHERS:
        entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float32), entry.name))
