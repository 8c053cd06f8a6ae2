"""The plan written into the graph as QuantizeLinear and DequantizeLinear, the form that ONNX runtimes read."""

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

# Integers of a bias, at most: half of what int32 holds, so that the sum of products fits as well.
LARGEST_BIAS = 2.0**30
SMALLEST = 1e-12  # magnitude of a channel's largest weight that has a scale of its own: a float32 holds its reciprocal


def quantize_dequantize(model: onnx.ModelProto, plan: Plan, spec: Spec) -> None:
    """Give the graph, in place, int8 weights and rounded activations, as `plan` and `spec` say.

    It is the float graph that the plan is for, after `repair.apply_repairs` where the plan has any.

    Weights are signed bytes with a scale for each output channel. Where integers flow between layers (`spec.between`)
    outputs are rounded too and biases are int32; elsewhere only the inputs of int8 layers are rounded. A tensor
    without a range in the plan is not rounded.
    """
    with GraphIndex(model) as graph:
        writer = _Writer(graph, plan, spec)
        for name in (name for name, reason in writer.reasons.items() if not reason):
            writer.weights(plan.layers[name])
        for tensor in writer.rounded_tensors():
            writer.round(tensor)
        graph.insert_after(None, writer.scaled_weights)


def integers_flowing(model: onnx.ModelProto, plan: Plan, spec: Spec) -> None:
    """Do `quantize_dequantize` in the form that ONNX Runtime has integer kernels for, in place.

    Transposed convolutions are split, 1x1 convolutions that make an output are products of matrices, whose sums stay
    in float, what stands between layers are sums and products of rounded tensors, and upsampling copies pixels.
    """
    quantize_dequantize(model, plan, spec)
    for lowering in (sums_and_products, outputs_as_products, split_late, repeat_pixels, keep_in_float):
        lowering(model)


def activation_scale(found: TensorRange, asymmetric: bool) -> tuple[np.float32, np.ndarray]:
    """Scale and zero point of a tensor: uint8 over its clipped range with 0 exact, or int8 symmetric around 0."""
    if not asymmetric:
        return np.float32(found.threshold / 127), np.array(0, np.int8)
    low, high = clipped_range(found)
    scale = np.float32(max((high - low) / 255, 1e-12))
    return scale, np.array(np.clip(round(-low / float(scale)), 0, 255), np.uint8)


def byte_ends(found: TensorRange) -> tuple[np.float32, np.float32, int]:
    """The values of the bytes 0 and 255 of a tensor, and the byte of the value 0."""
    scale, zero = activation_scale(found, True)
    return np.float32(-int(zero)) * scale, np.float32(255 - int(zero)) * scale, int(zero)


def rounded_range(found: TensorRange, asymmetric: bool) -> tuple[float, float]:
    """Smallest and largest value that a rounded tensor can have."""
    return clipped_range(found) if asymmetric else (-found.threshold, found.threshold)


def clipped_range(found: TensorRange) -> tuple[float, float]:
    """Smallest and largest value of a tensor after clipping, 0 among them."""
    return min(max(found.minimum, -found.threshold), 0.0), max(min(found.maximum, found.threshold), 0.0)


def weight_scales(weight: np.ndarray, axis: int, bits: int = 8) -> np.ndarray:
    """One float32 scale for each channel along `axis`: its largest magnitude becomes the largest integer."""
    return _largest(weight, axis) / np.float32(2 ** (bits - 1) - 1)


def weight_factors(weight: np.ndarray, axis: int, bits: int = 8) -> np.ndarray:
    """What `weight_scales` are the reciprocals of, but for the last bit."""
    return np.float32(2 ** (bits - 1) - 1) / _largest(weight, axis)


def _largest(weight: np.ndarray, axis: int) -> np.ndarray:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return np.maximum(np.abs(weight).max(axis=others), SMALLEST).astype(np.float32)


def least_scales(bias: np.ndarray, activation: np.float32, channels: int) -> np.ndarray:
    """The smallest scale that each of the `channels` of a weight may have, (channels,) float32.

    A runtime that adds the bias to integer sums has it in steps of the weight's scale times the scale `activation` of
    the input, and clips what int32 does not hold. Weights that a larger scale rounds away are small beside the bias.
    """
    peaks = np.abs(np.broadcast_to(bias.ravel(), max(channels, bias.size))).reshape(-1, channels).max(axis=0)
    return (peaks / (LARGEST_BIAS * np.float64(activation))).astype(np.float32)


def integer_weights(
    weight: np.ndarray, layer: PlannedLayer, plan: Plan, spec: Spec, fact: Facts, least: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A layer's weights as int8 and their float32 steps, one for each output channel: the plan's, or max.

    No step is smaller than the `least` one.
    """
    bits = spec.weight_bits(fact, layer.weight_bits)
    scales = plan.weight_scales(layer.name, bits)
    if scales is None:
        scales = weight_scales(weight, fact.axis, bits)
    scales = np.maximum(scales, np.float32(least))
    shape = [-1 if i == fact.axis else 1 for i in range(weight.ndim)]
    return np.clip(np.round(weight / scales.reshape(shape)), -127, 127).astype(np.int8), scales


class _Writer:
    def __init__(self, graph: GraphIndex, plan: Plan, spec: Spec) -> None:
        self.graph, self.plan, self.spec = graph, plan, spec
        self.facts, self.reasons = facts(graph.model), decide(plan, spec, graph.model)
        self.nodes = {node.name: node for node in graph}
        # What a layer reads is a tensor of the plan, or that tensor with its padding.
        layers = [(self.nodes[name], layer.input) for name, layer in plan.layers.items()]
        padded = {node.input[0]: plan.tensors[given] for node, given in layers if given in plan.tensors}
        self.ranges = padded | plan.tensors
        for node in graph:  # below -3 a hard swish is 0
            found = self.ranges.get(node.input[0]) if node.op_type == "HardSwish" else None
            if found is not None and graph.only_consumer(node.input[0]) is not None:
                self.ranges[node.input[0]] = replace(found, minimum=max(found.minimum, -3.0))
        self.scaled_weights: list[onnx.NodeProto] = []  # DequantizeLinear nodes, which go before all others

    def rounded_tensors(self) -> list[str]:
        """Inputs of int8 layers; where integers flow, also what layers and the operators between them make and read."""
        chosen = dict.fromkeys(self.nodes[n].input[0] for n, reason in self.reasons.items() if not reason)
        if self.spec.between:
            outputs, leading = self.graph.outputs, self._leading()
            for name, reason in self.reasons.items():
                if not reason:
                    chosen[rounded_tensor(self.graph, self.plan.layers[name].output)] = None
            for node in self.graph:
                if node.op_type in self.spec.between and any(name in chosen for name in node.input):
                    made = rounded_tensor(self.graph, node.output[0])
                    if made in leading and made not in outputs:
                        chosen.update(dict.fromkeys([*(n for n in node.input if n in self.ranges), made]))
            chosen = {name: None for name in chosen if name not in outputs}
        return [name for name in chosen if name in self.ranges and self.ranges[name].threshold > 0]

    def _leading(self) -> set[str]:
        """Tensors from which integers may flow to a layer in int8."""
        found = {self.nodes[name].input[0] for name, reason in self.reasons.items() if not reason}
        for node in reversed(self.graph):
            if node.op_type in (*self.spec.between, *CLAMPS) and node.output[0] in found:
                found.update(node.input)
        return found

    def weights(self, layer: PlannedLayer) -> None:
        """Replace a layer's weight by bytes, and its bias by int32 where the runtime adds it to integer sums."""
        node = self.nodes[layer.name]
        weight = self.graph.constant(node.input[1])
        fact, bias = self.facts[layer.name], self._integer_bias(node)
        activation = activation_scale(self.plan.tensors[layer.input], self.spec.asymmetric)[0]
        least = 0.0 if bias is None else least_scales(bias, activation, weight.shape[fact.axis])
        integers, scales = integer_weights(weight, layer, self.plan, self.spec, fact, least)
        self.graph.set_input(node, 1, self._constant(f"{layer.name}.weight", integers, scales, fact.axis))
        if bias is not None:
            step = scales * activation
            integers = np.round(bias / step.astype(np.float64)).astype(np.int32)
            self.graph.set_input(node, 2, self._constant(f"{layer.name}.bias", integers, step, 0))

    def _integer_bias(self, node: onnx.NodeProto) -> np.ndarray | None:
        """The bias of a layer where the runtime adds it to integer sums; None without one, or where it is computed."""
        return self.graph.value(node.input[2]) if self.spec.between and len(node.input) > 2 else None

    def round(self, tensor: str) -> None:
        """Put a rounding pair behind a tensor.

        Every reader reads the rounded values where integers flow between layers, else int8 layers alone: a sum that
        the target computes in float reads floats.
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

    def _constant(self, wanted: str, integers: np.ndarray, scales: np.ndarray, axis: int) -> str:
        """Add integers that stand for weights; the name of the weights."""
        graph, name, zeros = self.graph, self.graph.fresh(wanted), np.zeros(scales.shape, integers.dtype)
        parts = (("q", integers), ("scale", scales), ("zero_point", zeros))
        inputs = [graph.add_constant(f"{name}.{part}", values) for part, values in parts]
        made = graph.fresh(f"{name}.dequantize")
        self.scaled_weights.append(helper.make_node("DequantizeLinear", inputs, [name], made, axis=axis))
        return name
