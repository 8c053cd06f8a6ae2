"""The float network's layers as they are rounded: weights, biases, and rows of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.graph.layers import Facts, facts
from sandglass.graph.work import spread
from sandglass.quantization import input_rows
from sandglass.quantization.edits import Rounded
from sandglass.quantization.layer_rounding import LayerToRound, round_input, round_to_nearest
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import Plan, PlannedLayer
from sandglass.quantization.spec import Spec

SAMPLES = 128  # calibration inputs that rows are drawn from, the most
SILENT = 1e-12  # power of an output below which noise is not compared with it

RoundWeights = Callable[[LayerToRound, Rounded], Rounded]


@dataclass(frozen=True)
class LayerData:
    """The layers of the edited float network, and rows of their inputs: enough to round each of them again.

    All fields are by layer: `weights` in the shape of the graph, `biases` (channels,) or None, `rows` (rows, groups,
    columns). `rounding` holds the repairs that choose integers and biases, by name and in order.
    """

    spec: Spec
    facts: dict[str, Facts]
    weights: dict[str, np.ndarray]
    biases: dict[str, np.ndarray | None]
    rows: dict[str, np.ndarray]
    rounding: Mapping[str, RoundWeights]

    def shifted(self, model: onnx.ModelProto, offsets: Mapping[str, np.ndarray]) -> LayerData:
        """The data after `offsets`, (channels,) or (1,) by tensor, were taken off, in `model` too."""
        rows = {}
        for name, fact in self.facts.items():
            rows[name] = before = self.rows[name]
            if (offset := offsets.get(fact.layer.input)) is not None:
                # Columns are channels by taps of the kernel, channels first.
                each = np.repeat(offset, before[0].size // offset.size).reshape(before.shape[1:])
                rows[name] = (before - each).astype(np.float32)
        return replace(self, rows=rows, biases=layer_biases(model, self.facts))

    def round(self, plan: Plan, name: str, bits: int, repairs: Sequence[str]) -> Rounded:
        """A layer's integers of `bits` bits or fewer under the plan's ranges, chosen by those of the `repairs` that
        choose integers; without any of them the nearest ones.
        """
        fact = self.facts[name]
        layer = LayerToRound(
            fact,
            self.weights[name],
            self.biases[name],
            self.rows[name],
            plan.tensors[fact.layer.input],
            self.spec.asymmetric,
            self.spec.weight_bits(fact, bits),
            tuple(repairs),
        )
        rounded = round_to_nearest(layer)
        for repair, round_weights in self.rounding.items():
            if repair in repairs:
                rounded = round_weights(layer, rounded)
        return rounded

    def local_noise(self, plan: Plan, name: str) -> float:
        """Power of a layer's output error over the power of its output, when its input and weights are rounded."""
        fact, rows = self.facts[name], self.rows[name]
        rounded = plan.rounded.get(name) or self.round(plan, name, plan.layers[name].weight_bits, ())
        weights = self.weights[name], rounded.weights(fact.axis)
        first, second = (input_rows.weight_matrix(weight, fact).transpose(0, 2, 1) for weight in weights)
        seen = round_input(rows, plan.tensors[fact.layer.input], self.spec.asymmetric)
        # (groups, rows, columns) @ (groups, columns, outputs)
        expected, found = rows.transpose(1, 0, 2) @ first, seen.transpose(1, 0, 2) @ second
        power = float(expected.var(axis=1).mean())
        return float((found - expected).var(axis=1).mean()) / max(power, SILENT)


def draw(
    model: onnx.ModelProto,
    graph: Path,
    layers: Mapping[str, PlannedLayer],
    spec: Spec,
    batches: Batches,
    rounding: Mapping[str, RoundWeights],
) -> LayerData:
    """Data of those of the planned `layers` whose rows can be drawn and whose operator is integer on the target.

    The file `graph` holds `model`.
    """
    constants = {entry.name: entry for entry in model.graph.initializer}
    chosen = {
        name: fact
        for name, fact in input_rows.drawable(model, facts(model)).items()
        if not layers[name].keep_float and fact.layer.operator in spec.operators
    }
    weights = {name: numpy_helper.to_array(constants[fact.layer.weight]) for name, fact in chosen.items()}
    samples = spread(batches, SAMPLES)
    rows = input_rows.draw(graph, chosen, samples, len(samples))
    return LayerData(spec, chosen, weights, layer_biases(model, chosen), rows, rounding)


def layer_biases(model: onnx.ModelProto, layers: Mapping[str, Facts]) -> dict[str, np.ndarray | None]:
    """The bias, (channels,), of each layer that has one, and None of the others."""
    constants = {entry.name: entry for entry in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    biases: dict[str, np.ndarray | None] = {}
    for name, fact in layers.items():
        constant = nodes[name].input[2] if len(nodes[name].input) > 2 else ""
        values = numpy_helper.to_array(constants[constant]).ravel() if constant else None
        biases[name] = None if values is None else np.broadcast_to(values, (fact.channels,))
    return biases
