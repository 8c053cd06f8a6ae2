"""A plan on the graph, without a target's runtime, and with its arithmetic to the last bit where that is known.

Sums of products of integers are exact, in float32 as in int32. What a runtime does around them, the `Arithmetic` of its
`Spec` says: rounding is chaotic, so that one bit less in a scale moves some value over the edge between two integers,
and later layers spread the step. Where integers flow between layers (`Spec.between`) ONNX Runtime's integer kernels
are the simulation. A plan for a processor whose sums saturate has weights for which they do not (`Spec.on`).
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
    """A session that computes as a target with `spec` would under `plan`; its `run` takes the graph's inputs."""
    model, plan = repaired(graph, plan, spec)
    if spec.between:
        integers_flowing(model, plan, spec)
    else:
        integer_sums(model, plan, spec)
    with TemporaryDirectory(prefix="sandglass-") as folder:
        path = Path(folder) / "simulated.onnx"
        save_graph(model, path)
        return GraphSession(path, threads=threads, fuse=bool(spec.between), exact=True)


def integer_sums(model: onnx.ModelProto, plan: Plan, spec: Spec) -> None:
    """Let the int8 layers of `plan` compute, in place, on integers, held in float32.

    Each input of such a layer is rounded, for that layer alone: what else reads it reads floats.
    """
    integer = {name for name, reason in decide(plan, spec, model).items() if not reason}
    known = facts(model)
    with GraphIndex(model) as graph:
        of_layers = _alone_made_for(graph, plan, integer) if spec.arithmetic.grid else set()
        writer = _Writer(graph, plan, spec, of_layers)
        for node in graph:
            if node.name in integer:
                graph.replace(node, writer.layer(node, known[node.name]))
    if spec.arithmetic.ordered_taps:
        tap_by_tap(model)


def _alone_made_for(graph: GraphIndex, plan: Plan, integer: set[str]) -> set[str]:
    """Results of layers, after a clamp that alone follows, that nothing but layers in `integer` reads."""
    made = {layer.output for layer in plan.layers.values()}
    for node in graph:
        if node.op_type in CLAMPS and node.input[0] in made and len(graph.consumers(node.input[0])) == 1:
            made.add(node.output[0])
    return {name for name in made if {node.name for node in graph.consumers(name)} <= integer} - graph.outputs


class _Writer:
    def __init__(self, graph: GraphIndex, plan: Plan, spec: Spec, of_layers: Collection[str]) -> None:
        self.graph, self.plan, self.spec, self.of_layers = graph, plan, spec, of_layers
        self.integers: dict[str, str] = {}  # by the tensor that they are rounded from

    def layer(self, node: onnx.NodeProto, fact: Facts) -> list[onnx.NodeProto]:
        """A layer on the integers of its input and weights: their sums, scaled, and the bias."""
        layer, name, weight = self.plan.layers[node.name], node.name, self.graph.constant(node.input[1])
        integers, scales = integer_weights(weight, layer, self.plan, self.spec, fact)
        bias = self.graph.constant(node.input[2]).ravel() if len(node.input) > 2 and node.input[2] else None
        nodes = self.round(node.input[0], self.plan.tensors[layer.input])
        made = self.graph.fresh(f"{name}.sums")
        weights = self.graph.add_constant(f"{name}.weights", integers.astype(np.float32))
        sums = changed_node(node, [self.integers[node.input[0]], weights], made)
        steps = self._steps(layer, weight, scales, fact)
        steps = np.tile(steps, fact.channels // steps.size)
        shape = (-1,) if node.op_type in ("Gemm", "MatMul") else (1, -1, *[1] * (integers.ndim - 2))
        added = None if bias is None else np.broadcast_to(bias, (fact.channels,)).reshape(shape)
        fused = self.spec.arithmetic.fused_sums
        return [*nodes, sums, *self._linear(made, steps.reshape(shape), added, node.output[0], fused)]

    def round(self, tensor: str, found: TensorRange) -> list[onnx.NodeProto]:
        """The integers of what a layer reads, as float32, without the zero point."""
        if tensor in self.integers:
            return []
        graph = self.graph
        self.integers[tensor] = name = graph.fresh(f"{tensor}.integers")
        scaled, rounded, clipped = (graph.fresh(f"{name}.{part}") for part in ("scaled", "round", "clipped"))
        grid = self._grid(found, tensor in self.of_layers)
        shift = None if grid.shift is None else np.asarray(grid.shift)
        nodes = self._linear(tensor, np.asarray(grid.factor), shift, scaled, grid.fused)
        if self.spec.arithmetic.half_away:
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

    def _grid(self, found: TensorRange, of_layer: bool) -> Grid:
        if self.spec.arithmetic.grid is not None:
            return self.spec.arithmetic.grid(found, of_layer)
        if not self.spec.asymmetric:
            return Grid(np.float32(127 / found.threshold), None, 0, -127, 127)
        low, high, zero = byte_ends(found)
        factor = np.float32(255) / (high - low)
        return Grid(factor, -low * factor, zero, 0, 255)

    def _steps(self, layer: PlannedLayer, weight: np.ndarray, scales: np.ndarray, fact: Facts) -> np.ndarray:
        """What one in a sum stands for, for each of the `scales` of a weight's channels.

        A target without zero points keeps factors from float to integer, whose reciprocals are rounded.
        """
        found = self.plan.tensors[layer.input]
        if self.spec.asymmetric:
            low, high, _ = byte_ends(found)
            return (high - low) / np.float32(255) * scales
        bits = self.spec.weight_bits(fact, layer.weight_bits)
        planned = self.plan.weight_scales(layer.name, bits) is not None
        factors = 1 / scales if planned else weight_factors(weight, fact.axis, bits)
        return 1 / (np.float32(127 / found.threshold) * factors)

    def _linear(
        self, data: str, factor: np.ndarray, shift: np.ndarray | None, made: str, fused: bool
    ) -> list[onnx.NodeProto]:
        """data * factor + shift in float32; fused, which is rounded once, by way of float64."""
        kind, graph = np.float64 if fused else np.float32, self.graph
        wide, product, total = (graph.fresh(f"{made}.{part}") for part in ("wide", "product", "sum"))
        source, result = (wide, total) if fused else (data, made)
        nodes = [helper.make_node("Cast", [data], [wide], to=TensorProto.DOUBLE)] if fused else []
        scale = graph.add_constant(f"{made}.factor", factor.astype(kind))
        nodes.append(helper.make_node("Mul", [source, scale], [product if shift is not None else result]))
        if shift is not None:
            offset = graph.add_constant(f"{made}.shift", shift.astype(kind))
            nodes.append(helper.make_node("Add", [product, offset], [result]))
        return nodes + ([helper.make_node("Cast", [total], [made], to=TensorProto.FLOAT)] if fused else [])
