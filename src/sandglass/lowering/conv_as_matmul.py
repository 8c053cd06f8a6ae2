"""1x1 convolutions of integers with results in float, as matrix products: a row holds the channels of a pixel.

A runtime that fuses rounding into layers has an integer convolution only if the result is rounded too. For a matrix
product it has a kernel whose sums stay in float.

    image (1, C, H, W) -> rows (1, H, W, C) @ weights (C, outputs) -> (1, H, W, outputs) -> (1, outputs, H, W)
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.layers import fact_of, rounded_tensor


def outputs_as_products(model: onnx.ModelProto) -> None:
    """Replace each 1x1 convolution of integers that computes an output of the graph by a MatMul with its name.

    The inputs, weights and biases of such a convolution all come from a DequantizeLinear.
    """
    with GraphIndex(model) as graph:
        for node in graph:
            if node.op_type == "Conv" and rounded_tensor(graph, node.output[0]) in graph.outputs:
                sources = [graph.producer(name, "DequantizeLinear") for name in node.input]
                if all(source is not None for source in sources):
                    data, weight = sources[:2]
                    assert data is not None
                    assert weight is not None
                    _as_product(graph, node, data, weight)


def _as_product(graph: GraphIndex, node: onnx.NodeProto, data: onnx.NodeProto, weight: onnx.NodeProto) -> None:
    """Replace a convolution if it is 1x1; `data` and `weight` are the DequantizeLinear nodes that it reads."""
    integers = graph.value(weight.input[0])
    if integers is None or not fact_of(node, integers.shape).pointwise:
        return
    columns = graph.add_constant(f"{node.name}.columns", np.ascontiguousarray(integers[:, :, 0, 0].T))
    rows, sums, biased, image = (graph.fresh(f"{node.name}.{part}") for part in ("rows", "sums", "biased", "image"))
    scaled = []
    for part, source, axis in ((rows, data, 3), (columns, weight, 1)):
        output = graph.fresh(f"{part}.float")
        scaled.append(helper.make_node("DequantizeLinear", [part, *source.input[1:]], [output], output, axis=axis))
    bias = [helper.make_node("Add", [sums, node.input[2]], [biased], biased)] if len(node.input) > 2 else []
    new = [
        helper.make_node("Transpose", [data.input[0]], [rows], rows, perm=[0, 2, 3, 1]),
        *scaled,
        helper.make_node("MatMul", [source.output[0] for source in scaled], [sums], node.name),
        *bias,
        helper.make_node("Transpose", [biased if bias else sums], [node.output[0]], image, perm=[0, 3, 1, 2]),
    ]
    graph.replace(node, new)
