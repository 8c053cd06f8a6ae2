"""Simulation of a plan without the target's runtime, with the target's arithmetic, to the last bit where it is known.

Sums of products of integers are exact in float32 as in int32, as long as they stay below 2^24. The `Arithmetic` of a
`Spec` describes what the runtime does around the sums. Its details matter: one bit in a scale moves some value over the
boundary between two integers, and later layers spread this step. For targets that pass integers from layer to layer
(`Spec.between`) the integer kernels of ONNX Runtime are the simulation. On a processor whose sums saturate, a plan has
weights for which they do not saturate (`Spec.on`).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper

from sandglass.graph.index import GraphIndex
from sandglass.graph.io import save_graph
from sandglass.graph.layers import CLAMPS, Facts, facts
from sandglass.graph.nodes import changed_node
from sandglass.graph.session import GraphSession
from sandglass.lowering.ordered_depthwise import tap_by_tap
from sandglass.quantization.plan import Plan, PlannedLayer, TensorRange
from sandglass.quantization.qdq import byte_ends, integer_weights, integers_flowing, weight_factors
from sandglass.quantization.repaired_plan import repaired
from sandglass.quantization.spec import Grid, Spec, decide


def simulate(graph: Path, plan: Plan, spec: Spec, threads: int | None = None) -> GraphSession:
    """A session that computes what a target with `spec` computes under `plan`; its `run` takes the graph's inputs."""
    model = repaired(graph, plan, spec)
    if spec.between:
        integers_flowing(model, plan, spec)
    else:
        integer_sums(model, plan, spec)
    with TemporaryDirectory(prefix="sandglass-") as folder:
        path = Path(folder) / "simulated.onnx"
        save_graph(model, path)
        return GraphSession(path, threads=threads, fuse=bool(spec.between), exact=True)


def integer_sums(model: onnx.ModelProto, plan: Plan, spec: Spec) -> None:
    """Let the int8 layers of `plan` compute on integers, which are stored as float32; changes the model.

    The input of such a layer is rounded for this layer alone; all other readers of the tensor read floats.
    """
    integer = {name for name, reason in decide(plan, spec, model).items() if not reason}
    layer_facts = facts(model)
    with GraphIndex(model) as graph:
        of_layers = _between_layers(graph, plan, integer) if spec.arithmetic.grid else set()
        writer = _Writer(graph, plan, spec, of_layers)
        for node in graph:
            if node.name in integer:
                graph.replace(node, writer.layer(node, layer_facts[node.name]))
    if spec.arithmetic.ordered_taps:
        tap_by_tap(model)


def _between_layers(graph: GraphIndex, plan: Plan, integer: set[str]) -> set[str]:
    """The results of layers, with the clamp after them if there is one, that only layers in `integer` read."""
    results = {layer.output for layer in plan.layers.values()}
    for node in graph:
        if node.op_type in CLAMPS and node.input[0] in results and len(graph.consumers(node.input[0])) == 1:
            results.add(node.output[0])
    return {name for name in results if {node.name for node in graph.consumers(name)} <= integer} - graph.outputs


class _Writer:
    def __init__(self, graph: GraphIndex, plan: Plan, spec: Spec, of_layers: Collection[str]) -> None:
        self.graph, self.plan, self.spec, self.of_layers = graph, plan, spec, of_layers
        self.integers: dict[str, str] = {}  # the name of the rounded tensor, by the tensor in float

    def layer(self, node: onnx.NodeProto, fact: Facts) -> list[onnx.NodeProto]:
        """The nodes of a layer on integers: round its input, sum the products, scale the sums, and add the bias."""
        layer, name, weight = self.plan.layers[node.name], node.name, self.graph.constant(node.input[1])
        integers, scales = integer_weights(weight, layer, self.plan, self.spec, fact)
        bias = self.graph.constant(node.input[2]).ravel() if len(node.input) > 2 and node.input[2] else None
        nodes = self.round(node.input[0], self.plan.tensors[layer.input])
        sums = self.graph.fresh(f"{name}.sums")
        weights = self.graph.add_constant(f"{name}.weights", integers.astype(np.float32))
        layer_node = changed_node(node, [self.integers[node.input[0]], weights], sums)
        steps = self._steps(layer, weight, scales, fact)
        steps = np.tile(steps, fact.channels // steps.size)  # (channels,): groups may share the scales of one group
        # Channels are the last axis of a matrix product, and axis 1 of a convolution: (batch, channels, height, width).
        shape = (-1,) if node.op_type in ("Gemm", "MatMul") else (1, -1, *[1] * (integers.ndim - 2))
        shift = None if bias is None else np.broadcast_to(bias, (fact.channels,)).reshape(shape)
        fused = self.spec.arithmetic.fused_sums
        return [*nodes, layer_node, *self._linear(sums, steps.reshape(shape), shift, node.output[0], fused)]

    def round(self, tensor: str, tensor_range: TensorRange) -> list[onnx.NodeProto]:
        """The nodes that turn a tensor into integers, as float32, with the zero point subtracted."""
        if tensor in self.integers:
            return []
        graph = self.graph
        self.integers[tensor] = name = graph.fresh(f"{tensor}.integers")
        scaled, rounded, clipped = (graph.fresh(f"{name}.{part}") for part in ("scaled", "round", "clipped"))
        grid = self._grid(tensor_range, tensor in self.of_layers)
        shift = None if grid.shift is None else np.asarray(grid.shift)
        nodes = self._linear(tensor, np.asarray(grid.factor), shift, scaled, grid.fused)
        if self.spec.arithmetic.half_away:  # sign(x) * floor(|x| + 0.5); the operator Round takes halves to even
            half = graph.add_constant(f"{name}.half", np.float32(0.5))
            size, over, floor, sign = (graph.fresh(f"{name}.{part}") for part in ("size", "over", "floor", "sign"))
            nodes += [
                helper.make_node("Abs", [scaled], [size]),
                helper.make_node("Add", [size, half], [over]),
                helper.make_node("Floor", [over], [floor]),
                helper.make_node("Sign", [scaled], [sign]),
                helper.make_node("Mul", [floor, sign], [rounded]),
            ]
        else:
            nodes.append(helper.make_node("Round", [scaled], [rounded]))
        limits = (("first", grid.first), ("last", grid.last))
        ends = [graph.add_constant(f"{name}.{end}", np.float32(limit)) for end, limit in limits]
        nodes.append(helper.make_node("Clip", [rounded, *ends], [clipped]))
        offset = graph.add_constant(f"{name}.zero_point", np.float32(grid.zero))
        return [*nodes, helper.make_node("Sub", [clipped, offset], [name])]

    def _grid(self, tensor_range: TensorRange, of_layer: bool) -> Grid:
        """The grid of an activation: the target's own, or the one that follows from its range."""
        if self.spec.arithmetic.grid is not None:
            return self.spec.arithmetic.grid(tensor_range, of_layer)
        if not self.spec.asymmetric:
            return Grid(np.float32(127 / tensor_range.threshold), None, 0, -127, 127)
        low, high, zero = byte_ends(tensor_range)
        factor = np.float32(255) / (high - low)
        return Grid(factor, -low * factor, zero, 0, 255)

    def _steps(self, layer: PlannedLayer, weight: np.ndarray, scales: np.ndarray, fact: Facts) -> np.ndarray:
        """The value of 1 in an integer sum, for each of the `scales` of a weight's channels, (channels,) float32.

        It is the scale of the input times the scale of the weight. A target without zero points stores the factors from
        float to integer, so that the step is a rounded reciprocal.
        """
        tensor_range = self.plan.tensors[layer.input]
        if self.spec.asymmetric:
            low, high, _ = byte_ends(tensor_range)
            return (high - low) / np.float32(255) * scales
        bits = self.spec.weight_bits(fact, layer.weight_bits)
        planned = self.plan.weight_scales(layer.name, bits) is not None
        factors = 1 / scales if planned else weight_factors(weight, fact.axis, bits)
        # Both factors, as in the target, are rounded to float32, then their product, and then its reciprocal.
        return 1 / (np.float32(127 / tensor_range.threshold) * factors)

    def _linear(
        self, data: str, factor: np.ndarray, shift: np.ndarray | None, output: str, fused: bool
    ) -> list[onnx.NodeProto]:
        """The nodes of data * factor + shift in float32.

        With `fused` the result is rounded once: float64 computes it, which is exact before the rounding to float32.
        """
        dtype, graph = np.float64 if fused else np.float32, self.graph
        wide, product, total = (graph.fresh(f"{output}.{part}") for part in ("wide", "product", "sum"))
        source, result = (wide, total) if fused else (data, output)
        nodes = [helper.make_node("Cast", [data], [wide], to=TensorProto.DOUBLE)] if fused else []
        scale = graph.add_constant(f"{output}.factor", factor.astype(dtype))
        nodes.append(helper.make_node("Mul", [source, scale], [product if shift is not None else result]))
        if shift is not None:
            offset = graph.add_constant(f"{output}.shift", shift.astype(dtype))
            nodes.append(helper.make_node("Add", [product, offset], [result]))
        return nodes + ([helper.make_node("Cast", [total], [output], to=TensorProto.FLOAT)] if fused else [])
