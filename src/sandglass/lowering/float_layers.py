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
from onnx import helper, numpy_helper

from sandglass.graph.io import drop_unread, set_nodes, sole_reader
from sandglass.graph.names import Names

ROUNDED_BY_OPTIMIZER = ("Conv", "ConvTranspose", "Gemm")
PASSED = ("Relu", "Clip")  # between the layer and the QuantizeLinear


def keep_in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed, whose layers with float weights stay in float in ONNX Runtime with its default options."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants, names = {entry.name: entry for entry in model.graph.initializer}, Names(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = makers.get(node.input[0]) if node.input else None
        if source is not None and source.op_type == "DequantizeLinear" and _would_be_rounded(model, node, constants):
            made = names.fresh(f"{source.output[0]}.{node.name}")
            own = _by_channel(model, made, source, constants, _input_channels(node, constants[node.input[1]]))
            node.input[0] = own.output[0]
            nodes.append(own)
        nodes.append(node)
    return drop_unread(set_nodes(model, nodes))


def _would_be_rounded(model: onnx.ModelProto, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    weight = constants.get(node.input[1]) if node.op_type in ROUNDED_BY_OPTIMIZER else None
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
        return False
    reader = sole_reader(model, node.output[0])
    while reader is not None and reader.op_type in PASSED:
        reader = sole_reader(model, reader.output[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _input_channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv":
        return int(weight.dims[1]) * int(given.get("group", 1))
    return int(weight.dims[1 if given.get("transB", 0) else 0])


def _by_channel(
    model: onnx.ModelProto,
    made: str,
    source: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    channels: int,
) -> onnx.NodeProto:
    """A DequantizeLinear like `source` that makes `made`, with its scale and zero point once for each channel."""
    integers, *parameters = source.input
    names = [f"{made}.scale", f"{made}.zero_point"][: len(parameters)]
    for name, parameter in zip(names, parameters, strict=True):
        values = np.repeat(numpy_helper.to_array(constants[parameter]).ravel(), channels)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return helper.make_node("DequantizeLinear", [integers, *names], [made], f"{made}.node", axis=1)
