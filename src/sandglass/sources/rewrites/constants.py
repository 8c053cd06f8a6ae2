"""Constants in one form: initializers, neither among the inputs (IR 3 and earlier) nor in nodes of their own."""

from __future__ import annotations

import onnx


def weights_are_no_inputs(model: onnx.ModelProto) -> None:
    """Drop every input that has an initializer, in place."""
    weights = {initializer.name for initializer in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def constants_are_weights(model: onnx.ModelProto) -> None:
    """Turn every Constant node with a tensor into an initializer, in place."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            weight = model.graph.initializer.add()
            weight.CopyFrom(node.attribute[0].t)
            weight.name = node.output[0]
        else:
            kept.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
