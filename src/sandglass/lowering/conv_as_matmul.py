"""1x1 convolutions of integers whose results stay in float, as products of matrices: a row is a pixel's channels.

A runtime that fuses rounding into layers has an integer convolution only where the result is rounded too. For a product
of matrices it has a kernel that leaves sums in float.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sandglass.graph.io import drop_unread, set_nodes
from sandglass.graph.layers import fact_of, rounded_tensor
from sandglass.graph.names import Names


def outputs_as_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every 1x1 convolution that makes an output, of integers, as a MatMul of its name.

    Integers are what stands before a DequantizeLinear, weights and biases too. The model is changed.
    """
    constants = {entry.name: entry for entry in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    outputs, names = {value.name for value in model.graph.output}, Names(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        behind = [makers[name] for name in node.input if name in makers and makers[name].op_type == "DequantizeLinear"]
        whole = node.op_type == "Conv" and len(behind) == len(node.input)
        weight = constants.get(behind[1].input[0]) if whole else None
        pointwise = weight is not None and fact_of(node, weight.dims).pointwise
        if not pointwise or rounded_tensor(model, node.output[0]) not in outputs:
            nodes.append(node)
            continue
        columns = names.fresh(f"{node.name}.columns")
        matrix = np.ascontiguousarray(numpy_helper.to_array(weight)[:, :, 0, 0].T)
        model.graph.initializer.append(numpy_helper.from_array(matrix, columns))
        nodes += _product(names, node, behind[0], behind[1], columns)
    return drop_unread(set_nodes(model, nodes))


def _product(
    names: Names, node: onnx.NodeProto, data: onnx.NodeProto, weight: onnx.NodeProto, columns: str
) -> list[onnx.NodeProto]:
    rows, sums, biased, image = (names.fresh(f"{node.name}.{part}") for part in ("rows", "sums", "biased", "image"))
    biased = biased if len(node.input) > 2 else sums
    scaled = [
        helper.make_node("DequantizeLinear", [part, *maker.input[1:]], [f"{part}.float"], f"{part}.float", axis=axis)
        for part, maker, axis in ((rows, data, 3), (columns, weight, 1))
    ]
    return [
        helper.make_node("Transpose", [data.input[0]], [rows], rows, perm=[0, 2, 3, 1]),
        *scaled,
        helper.make_node("MatMul", [f"{rows}.float", f"{columns}.float"], [sums], node.name),
        *([helper.make_node("Add", [sums, node.input[2]], [biased], biased)] if biased != sums else []),
        helper.make_node("Transpose", [biased], [node.output[0]], image, perm=[0, 3, 1, 2]),
    ]
