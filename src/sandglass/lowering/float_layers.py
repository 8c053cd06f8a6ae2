"""Layers that stay in float between rounded tensors, written so that ONNX Runtime leaves them in float.

Its optimizer rounds the weights of a layer that reads a DequantizeLinear and leads to a QuantizeLinear, with one scale
for all channels, unless the DequantizeLinear has a scale for each channel. Such a layer therefore reads one of its own,
whose scales are all the same:

    q -> DequantizeLinear(s) -> Conv -> QuantizeLinear      becomes
    q -> DequantizeLinear([s, s, ...]) -> Conv -> QuantizeLinear
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.nodes import attributes_of

ROUNDED_BY_OPTIMIZER = ("Conv", "ConvTranspose", "Gemm")
PASSED = ("Relu", "Clip")  # between the layer and the QuantizeLinear


def keep_in_float(model: onnx.ModelProto) -> None:
    """Keep layers with float weights in float in ONNX Runtime with its default options."""
    with GraphIndex(model) as graph:
        for node in graph:
            source = graph.producer(node.input[0], "DequantizeLinear") if node.input else None
            if source is not None and _would_be_rounded(graph, node):
                own = _by_channel(graph, node, source)
                graph.insert_before(node, [own])
                graph.set_input(node, 0, own.output[0])


def _would_be_rounded(graph: GraphIndex, node: onnx.NodeProto) -> bool:
    weight = graph.constants.get(node.input[1]) if node.op_type in ROUNDED_BY_OPTIMIZER else None
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
        return False
    reader = graph.only_consumer(node.output[0])
    while reader is not None and reader.op_type in PASSED:
        reader = graph.only_consumer(reader.output[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _input_channels(graph: GraphIndex, node: onnx.NodeProto) -> int:
    attributes, shape = attributes_of(node), graph.constants[node.input[1]].dims
    if node.op_type == "Conv":
        return int(shape[1] * attributes.get("group", 1))
    return int(shape[1 if attributes.get("transB", 0) else 0])


def _by_channel(graph: GraphIndex, node: onnx.NodeProto, source: onnx.NodeProto) -> onnx.NodeProto:
    """A DequantizeLinear like `source` for a layer, with its scale and zero point once for each channel."""
    made = graph.fresh(f"{source.output[0]}.{node.name}")
    names = []
    for part, parameter in zip(("scale", "zero_point"), source.input[1:], strict=False):
        values = np.repeat(graph.constant(parameter).ravel(), _input_channels(graph, node))
        names.append(graph.add_constant(f"{made}.{part}", values))
    inputs = [source.input[0], *names]
    return helper.make_node("DequantizeLinear", inputs, [made], graph.fresh(f"{made}.node"), axis=1)
