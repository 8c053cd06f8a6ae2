"""Outputs written back as planes faster than OpenVINO does it: (N, C, H, W) from the (N, H, W, C) of its kernels.

Its conversion of a few channels goes value by value, a thirteenth of SimplePose's time in int8. A transposition
does the same in a third of that, if it is hidden from the optimizer, which would merge it with the conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino

CHANNELS = range(9, 65)  # with fewer both take no time; with more it has a faster way of its own
LAYERS = ("Convolution", "GroupConvolution")


def transpose_outputs(model: openvino.Model) -> openvino.Model:
    """The model, changed in place: layers that make an output of CHANNELS and a known size end transposed.

    Names and values of outputs stay as they were.
    """
    for result in model.get_results():
        source = result.input_value(0)
        shape = source.get_partial_shape()
        known = shape.rank.is_static and len(shape) == 4 and all(shape[axis].is_static for axis in (1, 2, 3))
        if known and shape[1].get_length() in CHANNELS and _is_layer(source.get_node()):
            _transpose(result, source, *(shape[axis].get_length() for axis in (1, 2, 3)))
    model.validate_nodes_and_infer_types()
    return model


def _is_layer(node: openvino.Node) -> bool:
    """Whether a node is a convolution, or adds the bias of one."""
    layer = node.input_value(0).get_node() if node.get_type_name() == "Add" else node
    return layer.get_type_name() in LAYERS


def _transpose(result: openvino.Node, source: openvino.Output, channels: int, height: int, width: int) -> None:
    from openvino import opset13 as ops

    names = source.get_names()
    rows = ops.transpose(source, ops.constant(np.array([0, 2, 3, 1])))
    flat = ops.reshape(rows, ops.constant(np.array([0, height * width, channels])), special_zero=True)
    planes = ops.transpose(flat, ops.constant(np.array([0, 2, 1])))
    shaped = ops.reshape(planes, ops.constant(np.array([0, channels, height, width])), special_zero=True)
    planes.set_friendly_name(f"{result.get_friendly_name()}.transposed")
    source.get_tensor().set_names(set())
    shaped.output(0).get_tensor().set_names(names)
    result.input(0).replace_source_output(shaped.output(0))
