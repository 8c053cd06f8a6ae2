"""A plan on the graph, without a target's runtime, and with its arithmetic to the last bit where that is known.

Sums of products of integers are exact, in float32 as in int32. What a runtime does around them, the `Arithmetic` of its
`Spec` says: rounding is chaotic, so that one bit less in a scale moves some value over the edge between two integers,
and later layers spread the step. Where integers flow between layers (`Spec.between`) ONNX Runtime's integer kernels
are the simulation. A plan for a processor whose sums saturate has weights for which they do not (`Spec.on`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sandglass.graph.io import save_graph, set_nodes
from sandglass.graph.layers import CLAMPS, Facts, facts
from sandglass.graph.names import Names
from sandglass.graph.session import GraphSession
from sandglass.lowering.ordered_depthwise import tap_by_tap
from sandglass.quantization.plan import Plan, PlannedLayer, TensorRange
from sandglass.quantization.qdq import byte_ends, integer_weights, integers_flowing, weight_factors
from sandglass.quantization.repaired_plan import repaired
from sandglass.quantization.spec import Grid, Spec, decide


def simulate(graph: Path, plan: Plan, spec: Spec, threads: int | None = None) -> GraphSession:
    """A session that computes as a target with `spec` would under `plan`; its `run` takes the graph's inputs."""
    model, plan = repaired(graph, plan, spec)
    model = integers_flowing(model, plan, spec) if spec.between else integer_sums(model, plan, spec)
    with TemporaryDirectory(prefix="sandglass-") as folder:
        path = Path(folder) / "simulated.onnx"
        save_graph(model, path)
        return GraphSession(path, threads=threads, fuse=bool(spec.between), exact=True)


def integer_sums(model: onnx.ModelProto, plan: Plan, spec: Spec) -> onnx.ModelProto:
    """The graph with the int8 layers of `plan` on integers, held in float32; the input model is changed.

    Each input of such a layer is rounded, for that layer alone: what else reads it reads floats.
    """
    integer = {name for name, reason in decide(plan, spec, model).items() if not reason}
    of_layers = _alone_made_for(model, plan, integer) if spec.arithmetic.grid else set()
    writer, known = _Writer(model, plan, spec, of_layers), facts(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += writer.layer(node, known[node.name]) if node.name in integer else [node]
    model = set_nodes(model, nodes)
    return tap_by_tap(model) if spec.arithmetic.ordered_taps else model


def _alone_made_for(model: onnx.ModelProto, plan: Plan, integer: set[str]) -> set[str]:
    """Results of layers, after a clamp that alone follows, that nothing but layers in `integer` reads."""
    read: defaultdict[str, set[str]] = defaultdict(set)
    for node in model.graph.node:
        for name in node.input:
            read[name].add(node.name)
    made = {layer.output for layer in plan.layers.values()}
    for node in model.graph.node:
        if node.op_type in CLAMPS and node.input[0] in made and len(read[node.input[0]]) == 1:
            made.add(node.output[0])
    return {name for name in made if read[name] <= integer} - {value.name for value in model.graph.output}


class _Writer:
    def __init__(self, model: onnx.ModelProto, plan: Plan, spec: Spec, of_layers: Collection[str]) -> None:
        self.model, self.plan, self.spec, self.of_layers = model, plan, spec, of_layers
        self.constants = {entry.name: entry for entry in model.graph.initializer}
        self.fresh = Names(model).fresh
        self.integers: dict[str, str] = {}  # by the tensor that they are rounded from

    def layer(self, node: onnx.NodeProto, fact: Facts) -> list[onnx.NodeProto]:
        """A layer on the integers of its input and weights: their sums, scaled, and the bias."""
        layer, name, weight = self.plan.layers[node.name], node.name, self._value(node.input[1])
        integers, scales = integer_weights(weight, layer, self.plan, self.spec, fact)
        bias = self._value(node.input[2]).ravel() if len(node.input) > 2 and node.input[2] else None
        nodes = self.round(node.input[0], self.plan.tensors[layer.input])
        sums = onnx.NodeProto.FromString(node.SerializeToString())
        sums.output[0] = self.fresh(f"{name}.sums")
        del sums.input[:]
        weights = self._constant(self.fresh(f"{name}.weights"), integers.astype(np.float32))
        sums.input.extend([self.integers[node.input[0]], weights])
        steps = self._steps(layer, weight, scales, fact)
        steps = np.tile(steps, fact.channels // steps.size)
        shape = (-1,) if node.op_type in ("Gemm", "MatMul") else (1, -1, *[1] * (integers.ndim - 2))
        added = None if bias is None else np.broadcast_to(bias, (fact.channels,)).reshape(shape)
        fused = self.spec.arithmetic.fused_sums
        return [*nodes, sums, *self._linear(sums.output[0], steps.reshape(shape), added, node.output[0], fused)]

    def round(self, tensor: str, seen: TensorRange) -> list[onnx.NodeProto]:
        """The integers of what a layer reads, as float32, without the zero point."""
        if tensor in self.integers:
            return []
        self.integers[tensor] = name = self.fresh(f"{tensor}.integers")
        grid = self._grid(seen, tensor in self.of_layers)
        shift = None if grid.shift is None else np.asarray(grid.shift)
        nodes = self._linear(tensor, np.asarray(grid.factor), shift, f"{name}.scaled", grid.fused)
        if self.spec.arithmetic.half_away:
            half = self._constant(f"{name}.half", np.float32(0.5))
            nodes += [
                helper.make_node("Abs", [f"{name}.scaled"], [f"{name}.size"]),
                helper.make_node("Add", [f"{name}.size", half], [f"{name}.over"]),
                helper.make_node("Floor", [f"{name}.over"], [f"{name}.floor"]),
                helper.make_node("Sign", [f"{name}.scaled"], [f"{name}.sign"]),
                helper.make_node("Mul", [f"{name}.floor", f"{name}.sign"], [f"{name}.round"]),
            ]
        else:
            nodes.append(helper.make_node("Round", [f"{name}.scaled"], [f"{name}.round"]))
        ends = [self._constant(f"{name}.{i}", np.float32(limit)) for i, limit in enumerate((grid.first, grid.last))]
        nodes.append(helper.make_node("Clip", [f"{name}.round", *ends], [f"{name}.clipped"]))
        offset = self._constant(f"{name}.zero_point", np.float32(grid.zero))
        return [*nodes, helper.make_node("Sub", [f"{name}.clipped", offset], [name])]

    def _grid(self, seen: TensorRange, of_layer: bool) -> Grid:
        if self.spec.arithmetic.grid is not None:
            return self.spec.arithmetic.grid(seen, of_layer)
        if not self.spec.asymmetric:
            return Grid(np.float32(127 / seen.threshold), None, 0, -127, 127)
        low, high, zero = byte_ends(seen)
        factor = np.float32(255) / (high - low)
        return Grid(factor, -low * factor, zero, 0, 255)

    def _steps(self, layer: PlannedLayer, weight: np.ndarray, scales: np.ndarray, fact: Facts) -> np.ndarray:
        """What one in a sum stands for, for each of the `scales` of a weight's channels.

        A target without zero points keeps factors from float to integer, whose reciprocals are rounded.
        """
        seen = self.plan.tensors[layer.input]
        if self.spec.asymmetric:
            low, high, _ = byte_ends(seen)
            return (high - low) / np.float32(255) * scales
        bits = self.spec.weight_bits(fact, layer.weight_bits)
        planned = self.plan.weight_scales(layer.name, bits) is not None
        factors = 1 / scales if planned else weight_factors(weight, fact.axis, bits)
        # Both factors are rounded to float32, as the target keeps them, and then the product and its reciprocal.
        return 1 / (np.float32(127 / seen.threshold) * factors)

    def _linear(
        self, source: str, factor: np.ndarray, shift: np.ndarray | None, made: str, fused: bool
    ) -> list[onnx.NodeProto]:
        """source * factor + shift in float32; fused, which is rounded once, by way of float64."""
        kind = np.float64 if fused else np.float32
        name = self.fresh(f"{made}.linear")
        names = [f"{name}.wide", f"{name}.product", f"{name}.sum"] if fused else [source, f"{name}.product", made]
        nodes = [helper.make_node("Cast", [source], [names[0]], to=TensorProto.DOUBLE)] if fused else []
        scale = self._constant(f"{name}.factor", factor.astype(kind))
        nodes.append(helper.make_node("Mul", [names[0], scale], [names[1] if shift is not None else names[2]]))
        if shift is not None:
            offset = self._constant(f"{name}.shift", shift.astype(kind))
            nodes.append(helper.make_node("Add", [names[1], offset], [names[2]]))
        return nodes + ([helper.make_node("Cast", [names[2]], [made], to=TensorProto.FLOAT)] if fused else [])

    def _value(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.constants[name])

    def _constant(self, name: str, value: np.ndarray | np.floating) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name
