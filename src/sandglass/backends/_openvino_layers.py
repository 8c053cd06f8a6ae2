"""Layers of an OpenVINO model, with the graph's names, the multiply-accumulates, and the scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandglass.graph.work import multiply_accumulates

if TYPE_CHECKING:
    import openvino

# Nodes with weights: the graph's operator, and the number of leading axes that the weight has only in OpenVINO.
LAYERS = {
    "Convolution": ("Conv", 0),
    "GroupConvolution": ("Conv", 1),
    "ConvolutionBackpropData": ("ConvTranspose", 0),
    "GroupConvolutionBackpropData": ("ConvTranspose", 1),
    "MatMul": ("MatMul", 0),
}


@dataclass(frozen=True)
class ModelLayer:
    """A layer with the graph's name of the layer or of its output.

    `macs` are the multiply-accumulates for one image, and `terms` those for one element of the output. For `steps` see
    LayerRun.
    """

    name: str
    macs: int
    terms: int
    steps: tuple[float, ...]


def model_layers(model: openvino.Model) -> dict[str, ModelLayer]:
    """The layers of a model with static shapes, by the names of its nodes."""
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() in LAYERS and len(node.inputs()) > 1]
    return {str(node.get_friendly_name()): _layer(node) for node in nodes}


def _layer(node: openvino.Node) -> ModelLayer:
    operator, skipped = LAYERS[node.get_type_name()]
    data, weight = (list(node.input_value(i).get_shape()) for i in (0, 1))
    output = list(node.output(0).get_shape())
    macs = multiply_accumulates(operator, data, weight[skipped:], output)
    return ModelLayer(_layer_name(node), macs, macs // max(1, math.prod(output)), _steps(node))


def _layer_name(node: openvino.Node) -> str:
    """The graph's name of a layer. For a layer with a bias, the node that adds the bias has this name."""
    readers = list(node.output(0).get_target_inputs())
    after = readers[0].get_node() if len(readers) == 1 else node
    bias = after.get_type_name() == "Add" and after.input_value(1).get_node().get_type_name() == "Constant"
    return str((after if bias else node).get_friendly_name())


def _steps(node: openvino.Node) -> tuple[float, ...]:
    """The scales of a layer's input and of the channels of its weights; empty unless both are quantized."""
    rounded, weight = (node.input_value(i).get_node() for i in (0, 1))
    while weight.get_type_name() in ("Reshape", "Transpose"):
        weight = weight.input_value(0).get_node()
    while rounded.get_type_name() in ("MaxPool", "Interpolate"):  # the input is quantized before these
        rounded = rounded.input_value(0).get_node()
    if rounded.get_type_name() != "FakeQuantize" or weight.get_type_name() != "Multiply":
        return ()
    constants = [rounded.input_value(i).get_node() for i in (1, 2)] + [weight.input_value(1).get_node()]
    if any(constant.get_type_name() != "Constant" for constant in constants):
        return ()
    low, high, channels = (constant.data.ravel() for constant in constants)
    levels = int(rounded.get_attributes()["levels"])
    return (float(high.max() - low.min()) / (levels - 1), *(float(step) for step in channels))
