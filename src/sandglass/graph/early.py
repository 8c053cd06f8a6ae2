"""Rounding before what only moves values about, MaxPool and Resize to the nearest: the result is the same.

Integers are moved faster than floats, there are fewer of them before a Resize, and a layer can make them by itself.
"""

from __future__ import annotations

import onnx

from sandglass.graph.load import readers, set_nodes
from sandglass.quantize.carried import moves


def round_early(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each rounding pair moved before the nodes that move its values about; the model is changed.

    Those nodes have to be all that read the values, but for Resize, which makes more of them.
    """
    outputs = {value.name for value in model.graph.output}
    before: dict[str, tuple[str, str]] = {}  # where pairs go: before the node of that name
    for node in filter(moves, reversed(model.graph.node)):
        source, made = node.input[0], node.output[0]
        pair = _pair(model, made) if made not in outputs else ()
        alone = source not in outputs and len(readers(model, source)) == 1
        if not pair or not (alone or node.op_type == "Resize"):
            continue
        quantize, dequantize = pair
        quantize.input[0], node.input[0], node.output[0] = source, f"{made}.early", dequantize.output[0]
        dequantize.output[0] = node.input[0]
        names = quantize.name, dequantize.name
        before = {name: other for name, other in before.items() if other != names} | {node.name: names}
    nodes, taken = {node.name: node for node in model.graph.node}, {name for names in before.values() for name in names}
    ordered = [name for node in nodes if node not in taken for name in (*before.get(node, ()), node)]
    return set_nodes(model, [nodes[name] for name in ordered])


def _pair(model: onnx.ModelProto, tensor: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | tuple[()]:
    """QuantizeLinear and DequantizeLinear where they are all that reads a tensor, else nothing."""
    first = readers(model, tensor)
    then = readers(model, first[0].output[0]) if len(first) == 1 and first[0].op_type == "QuantizeLinear" else []
    return (first[0], then[0]) if len(then) == 1 and then[0].op_type == "DequantizeLinear" else ()
