"""Factors and terms after a convolution, one for all channels or one for each, folded into its weights and bias.

PaddleOCR's networks have one of each after every convolution. What is left of them costs as much time as a small
convolution, and keeps a runtime from joining the convolution with its activation.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.io import drop_unread, sole_reader
from sandglass.graph.names import Names


def fold_affines(model: onnx.ModelProto) -> None:
    """Fold every Mul and Add by constants that alone reads a convolution's result, in place."""
    constants, names = {entry.name: entry for entry in model.graph.initializer}, Names(model)
    for convolution in [node for node in model.graph.node if _folds(node, constants)]:
        axis = 0 if convolution.op_type == "Conv" else 1
        weight = numpy_helper.to_array(constants[convolution.input[1]]).astype(np.float64)
        bias = np.zeros(weight.shape[axis])
        if len(convolution.input) > 2 and convolution.input[2]:
            bias = numpy_helper.to_array(constants[convolution.input[2]]).astype(np.float64)
        folded = False
        while (node := _only_reader(model, convolution.output[0])) is not None:
            values = _by_channel(node, constants, len(bias))
            if values is None:
                break
            if node.op_type == "Mul":
                weight, bias = weight * np.expand_dims(values, _others(weight.ndim, axis)), bias * values
            else:
                bias = bias + values
            convolution.output[0] = node.output[0]
            model.graph.node.remove(node)
            folded = True
        if folded:
            _replace(model, names, convolution, weight, bias)
    drop_unread(model)


def _folds(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is a convolution with constant weights, transposed only without groups."""
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    known = node.op_type == "Conv" or (node.op_type == "ConvTranspose" and group == 1)
    return known and all(name in constants for name in node.input[1:] if name)


def _only_reader(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto | None:
    found = sole_reader(model, tensor)
    once = found is not None and found.op_type in ("Mul", "Add") and list(found.input).count(tensor) == 1
    return found if once else None


def _by_channel(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], channels: int) -> np.ndarray | None:
    """The constant that a node multiplies or adds, (channels,) float64; None where it differs within a channel."""
    given = [constants[name] for name in node.input if name in constants]
    if len(given) != 1:
        return None
    values = numpy_helper.to_array(given[0]).astype(np.float64)
    if values.size == 1 and values.ndim <= 4:
        return np.full(channels, values.item())
    shape = (1,) * (4 - values.ndim) + values.shape
    return values.ravel() if shape == (1, channels, 1, 1) else None


def _others(dimensions: int, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(dimensions) if i != axis)


def _replace(model: onnx.ModelProto, names: Names, node: onnx.NodeProto, weight: np.ndarray, bias: np.ndarray) -> None:
    """Give a convolution new constants; the old ones may serve others too."""
    del node.input[1:]
    for kind, values in (("weight", weight), ("bias", bias)):
        node.input.append(names.fresh(f"{node.output[0]}.{kind}"))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.input[-1]))
