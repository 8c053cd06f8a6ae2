"""A plan as QuantizeLinear and DequantizeLinear nodes in the graph, the form that ONNX runtimes read (QDQ).

An activation x becomes q = clip(round(x / scale) + zero, 0, 255), and a reader gets scale * (q - zero). Example: for
the range -1 .. 3 the scale is 4 / 255 = 0.0157 and the zero point round(1 / 0.0157) = 64. Then 0.5 becomes 96, which
stands for 32 * 0.0157 = 0.502.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.layers import CLAMPS, Facts, facts, rounded_tensor
from sandglass.lowering.conv_as_matmul import outputs_as_products
from sandglass.lowering.float_layers import keep_in_float
from sandglass.lowering.integer_arithmetic import sums_and_products
from sandglass.lowering.nearest_upsampling import repeat_pixels
from sandglass.lowering.transposed_conv import split_late
from sandglass.quantization.plan import Plan, PlannedLayer, TensorRange
from sandglass.quantization.spec import Spec, decide

# Largest integer of a bias: half of what int32 holds, which leaves the other half for the sum of products.
LARGEST_BIAS = 2.0**30
SMALLEST = 1e-12  # least magnitude from which the scale of a channel is computed: its reciprocal fits into float32


def quantize_dequantize(model: onnx.ModelProto, plan: Plan, spec: Spec) -> None:
    """Give the graph int8 weights and rounded activations, as `plan` and `spec` say; changes the model.

    The model is the float graph that the plan is for, after the plan's edits. Weights are signed bytes with one scale
    for each output channel. If the target passes integers from layer to layer (`spec.between`), outputs are rounded too
    and biases are int32; otherwise only the inputs of int8 layers are rounded. A tensor without a range in the plan is
    not rounded.
    """
    with GraphIndex(model) as graph:
        writer = _Writer(graph, plan, spec)
        for name in (name for name, reason in writer.reasons.items() if not reason):
            writer.weights(plan.layers[name])
        for tensor in writer.rounded_tensors():
            writer.round(tensor)
        graph.insert_after(None, writer.scaled_weights)


def integers_flowing(model: onnx.ModelProto, plan: Plan, spec: Spec) -> None:
    """`quantize_dequantize` in the form for which ONNX Runtime has integer kernels; changes the model.

    Transposed convolutions are split. 1x1 convolutions that compute an output of the network become matrix products,
    whose sums stay in float. The operators between layers become sums and products of rounded tensors, and upsampling
    copies pixels.
    """
    quantize_dequantize(model, plan, spec)
    for lowering in (sums_and_products, outputs_as_products, split_late, repeat_pixels, keep_in_float):
        lowering(model)


def activation_scale(tensor_range: TensorRange, asymmetric: bool) -> tuple[np.float32, np.ndarray]:
    """Scale and zero point of a tensor.

    With `asymmetric` they are for uint8 over the clipped range, and the value 0 is exact; otherwise for int8, symmetric
    around 0.
    """
    if not asymmetric:
        return np.float32(tensor_range.threshold / 127), np.array(0, np.int8)
    # x is about scale * (q - zero) with q in 0 .. 255: low at 0, high at 255, and 0 itself at the integer `zero`.
    low, high = clipped_range(tensor_range)
    scale = np.float32(max((high - low) / 255, 1e-12))
    return scale, np.array(np.clip(round(-low / float(scale)), 0, 255), np.uint8)


def byte_ends(tensor_range: TensorRange) -> tuple[np.float32, np.float32, int]:
    """For a tensor in uint8: the values of the bytes 0 and 255, and the byte of the value 0."""
    scale, zero = activation_scale(tensor_range, True)
    return np.float32(-int(zero)) * scale, np.float32(255 - int(zero)) * scale, int(zero)


def rounded_range(tensor_range: TensorRange, asymmetric: bool) -> tuple[float, float]:
    """The smallest and the largest value that a rounded tensor can have."""
    return clipped_range(tensor_range) if asymmetric else (-tensor_range.threshold, tensor_range.threshold)


def clipped_range(tensor_range: TensorRange) -> tuple[float, float]:
    """The smallest and the largest value of a tensor after clipping; the range always includes 0."""
    low = max(tensor_range.minimum, -tensor_range.threshold)
    high = min(tensor_range.maximum, tensor_range.threshold)
    return min(low, 0.0), max(high, 0.0)


def weight_scales(weight: np.ndarray, axis: int, bits: int = 8) -> np.ndarray:
    """The scale of each channel along `axis`, (channels,) float32: the largest weight becomes the largest integer."""
    return _largest(weight, axis) / np.float32(2 ** (bits - 1) - 1)


def weight_factors(weight: np.ndarray, axis: int, bits: int = 8) -> np.ndarray:
    """The factors from weights to integers, (channels,) float32: the reciprocals of `weight_scales` up to rounding."""
    return np.float32(2 ** (bits - 1) - 1) / _largest(weight, axis)


def _largest(weight: np.ndarray, axis: int) -> np.ndarray:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return np.maximum(np.abs(weight).max(axis=others), SMALLEST).astype(np.float32)


def least_scales(bias: np.ndarray, activation: np.float32, channels: int) -> np.ndarray:
    """The smallest scale that each channel of a weight may have so that its bias fits into int32, (channels,) float32.

    A runtime that adds the bias to integer sums stores it in steps of the weight's scale times the scale `activation`
    of the input, and clips larger integers. A larger scale of the weight rounds small weights to 0, but these are
    negligible next to such a bias.
    """
    peaks = np.abs(np.broadcast_to(bias.ravel(), max(channels, bias.size))).reshape(-1, channels).max(axis=0)
    return (peaks / (LARGEST_BIAS * np.float64(activation))).astype(np.float32)


def integer_weights(
    weight: np.ndarray, layer: PlannedLayer, plan: Plan, spec: Spec, fact: Facts, least: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A layer's weights as int8 in the shape of `weight`, and their scales, (channels,) float32.

    The scales are those of the plan if it has some for this layer; otherwise the largest weight of a channel becomes
    the largest integer. No scale is smaller than `least`.
    """
    bits = spec.weight_bits(fact, layer.weight_bits)
    scales = plan.weight_scales(layer.name, bits)
    if scales is None:
        scales = weight_scales(weight, fact.axis, bits)
    scales = np.maximum(scales, np.float32(least))
    # w is about scale * q with q in -127 .. 127 (fewer with fewer bits): symmetric, so that weights need no zero point.
    shape = [-1 if i == fact.axis else 1 for i in range(weight.ndim)]
    return np.clip(np.round(weight / scales.reshape(shape)), -127, 127).astype(np.int8), scales


class _Writer:
    def __init__(self, graph: GraphIndex, plan: Plan, spec: Spec) -> None:
        self.graph, self.plan, self.spec = graph, plan, spec
        self.facts, self.reasons = facts(graph.model), decide(plan, spec, graph.model)
        self.nodes = {node.name: node for node in graph}
        # A layer reads a tensor of the plan, or that tensor after a Pad, which then has the same range.
        layers = [(self.nodes[name], layer.input) for name, layer in plan.layers.items()]
        padded = {node.input[0]: plan.tensors[tensor] for node, tensor in layers if tensor in plan.tensors}
        self.ranges = padded | plan.tensors
        for node in graph:  # a hard swish is 0 for all values below -3: they need no integers
            tensor_range = self.ranges.get(node.input[0]) if node.op_type == "HardSwish" else None
            if tensor_range is not None and graph.only_consumer(node.input[0]) is not None:
                self.ranges[node.input[0]] = replace(tensor_range, minimum=max(tensor_range.minimum, -3.0))
        self.scaled_weights: list[onnx.NodeProto] = []  # DequantizeLinear nodes, which come before all others

    def rounded_tensors(self) -> list[str]:
        """The tensors to round: the inputs of int8 layers.

        If the target passes integers from layer to layer, also the outputs of these layers, and the inputs and outputs
        of the operators between layers.
        """
        chosen = dict.fromkeys(self.nodes[n].input[0] for n, reason in self.reasons.items() if not reason)
        if self.spec.between:
            outputs, leading = self.graph.outputs, self._leading()
            for name, reason in self.reasons.items():
                if not reason:
                    chosen[rounded_tensor(self.graph, self.plan.layers[name].output)] = None
            for node in self.graph:
                if node.op_type in self.spec.between and any(name in chosen for name in node.input):
                    output = rounded_tensor(self.graph, node.output[0])
                    if output in leading and output not in outputs:
                        chosen.update(dict.fromkeys([*(n for n in node.input if n in self.ranges), output]))
            chosen = {name: None for name in chosen if name not in outputs}
        return [name for name in chosen if name in self.ranges and self.ranges[name].threshold > 0]

    def _leading(self) -> set[str]:
        """Tensors whose integers can reach a layer in int8, through operators that compute on integers."""
        leading = {self.nodes[name].input[0] for name, reason in self.reasons.items() if not reason}
        for node in reversed(self.graph):
            if node.op_type in (*self.spec.between, *CLAMPS) and node.output[0] in leading:
                leading.update(node.input)
        return leading

    def weights(self, layer: PlannedLayer) -> None:
        """Replace a layer's weight by int8, and its bias by int32 if the runtime adds it to integer sums."""
        node = self.nodes[layer.name]
        weight = self.graph.constant(node.input[1])
        fact, bias = self.facts[layer.name], self._integer_bias(node)
        activation = activation_scale(self.plan.tensors[layer.input], self.spec.asymmetric)[0]
        least = 0.0 if bias is None else least_scales(bias, activation, weight.shape[fact.axis])
        integers, scales = integer_weights(weight, layer, self.plan, self.spec, fact, least)
        self.graph.set_input(node, 1, self._constant(f"{layer.name}.weight", integers, scales, fact.axis))
        if bias is not None:
            # Step of the integer sums: the sum of (w / scale) (x / activation) is (the sum of w x) / step.
            step = scales * activation  # (channels,)
            integers = np.round(bias / step.astype(np.float64)).astype(np.int32)
            self.graph.set_input(node, 2, self._constant(f"{layer.name}.bias", integers, step, 0))

    def _integer_bias(self, node: onnx.NodeProto) -> np.ndarray | None:
        """The bias of a layer if the runtime adds it to integer sums; None if the layer has no constant bias."""
        return self.graph.value(node.input[2]) if self.spec.between and len(node.input) > 2 else None

    def round(self, tensor: str) -> None:
        """Insert QuantizeLinear and DequantizeLinear after a tensor.

        If the target passes integers from layer to layer, all readers get the rounded values. Otherwise only int8
        layers do, because the target computes sums and other operators in float.
        """
        scale, zero = activation_scale(self.ranges[tensor], self.spec.asymmetric)
        graph = self.graph
        names = [
            graph.add_constant(f"{tensor}.scale", np.array(scale)),
            graph.add_constant(f"{tensor}.zero_point", zero),
        ]
        integers, quantize, rounded, dequantize = (
            graph.fresh(f"{tensor}.{part}") for part in ("q", "quantize", "rounded", "dequantize")
        )
        for node in graph.consumers(tensor):
            if self.spec.between or self.reasons.get(node.name) == "":
                graph.set_inputs(node, [rounded if name == tensor else name for name in node.input])
        pair = [
            helper.make_node("QuantizeLinear", [tensor, *names], [integers], quantize),
            helper.make_node("DequantizeLinear", [integers, *names], [rounded], dequantize),
        ]
        graph.insert_after(graph.producer(tensor), pair)

    def _constant(self, name: str, integers: np.ndarray, scales: np.ndarray, axis: int) -> str:
        """Add integers and a DequantizeLinear for them; returns the name of its output, `name` if that is not taken."""
        graph, output, zeros = self.graph, self.graph.fresh(name), np.zeros(scales.shape, integers.dtype)
        parts = (("q", integers), ("scale", scales), ("zero_point", zeros))
        inputs = [graph.add_constant(f"{output}.{part}", values) for part, values in parts]
        node_name = graph.fresh(f"{output}.dequantize")
        self.scaled_weights.append(helper.make_node("DequantizeLinear", inputs, [output], node_name, axis=axis))
        return output
