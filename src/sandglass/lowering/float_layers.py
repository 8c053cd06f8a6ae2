"""Layers in float between rounded tensors, in a form in which ONNX Runtime leaves them in float.

Its optimizer rounds the weights of a layer between a DequantizeLinear and a QuantizeLinear, with one scale for all
channels. It does not do so if the DequantizeLinear has a scale for each channel. So such a layer gets a
DequantizeLinear of its own, whose scales are all the same:

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
PASSED = ("Relu", "Clip")  # operators between the layer and the QuantizeLinear that do not prevent the rounding


def keep_in_float(model: onnx.ModelProto) -> None:
    """Keep layers with float weights in float, in ONNX Runtime with its default options."""
    with GraphIndex(model) as graph:
        for node in graph:
            source = graph.producer(node.input[0], "DequantizeLinear") if node.input else None
            if source is not None and _would_be_rounded(graph, node):
                dequantize = _by_channel(graph, node, source)
                graph.insert_before(node, [dequantize])
                graph.set_input(node, 0, dequantize.output[0])


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
    """A DequantizeLinear like `source` for a layer, with the scale and zero point repeated for each channel."""
    output = graph.fresh(f"{source.output[0]}.{node.name}")
    names = []
    for part, parameter in zip(("scale", "zero_point"), source.input[1:], strict=False):
        values = np.repeat(graph.constant(parameter).ravel(), _input_channels(graph, node))
        names.append(graph.add_constant(f"{output}.{part}", values))
    inputs = [source.input[0], *names]
    return helper.make_node("DequantizeLinear", inputs, [output], graph.fresh(f"{output}.node"), axis=1)
