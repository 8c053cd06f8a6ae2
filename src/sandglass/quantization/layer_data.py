"""The layers of the edited float network: the weights, biases and rows of inputs that their rounding needs."""

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

SAMPLES = 128  # calibration inputs from which rows are drawn, at most
SILENT = 1e-12  # the least power of an output by which noise is divided

RoundWeights = Callable[[LayerToRound, Rounded], Rounded]


@dataclass(frozen=True)
class LayerData:
    """The layers of the edited float network, and rows of their inputs: enough to round each layer again.

    All dictionaries but `rounding` are by layer: `weights` in the shape of the graph, `biases` (channels,) or None,
    `rows` (rows, groups, columns) float32. `rounding` holds the repairs that choose integers and biases, by name and in
    order.
    """

    spec: Spec
    facts: dict[str, Facts]
    weights: dict[str, np.ndarray]
    biases: dict[str, np.ndarray | None]
    rows: dict[str, np.ndarray]
    rounding: Mapping[str, RoundWeights]

    def shifted(self, model: onnx.ModelProto, offsets: Mapping[str, np.ndarray]) -> LayerData:
        """The data after `offsets`, (channels,) or (1,) by tensor, are subtracted; `model` is the shifted network."""
        rows = {}
        for name, fact in self.facts.items():
            rows[name] = before = self.rows[name]
            if (offset := offsets.get(fact.layer.input)) is not None:
                # Columns are channels x taps of the kernel, channels first: the offset of a channel is repeated for
                # each of its taps, (groups, columns).
                columns = np.repeat(offset, before[0].size // offset.size).reshape(before.shape[1:])
                rows[name] = (before - columns).astype(np.float32)
        return replace(self, rows=rows, biases=layer_biases(model, self.facts))

    def round(self, plan: Plan, name: str, bits: int, repairs: Sequence[str]) -> Rounded:
        """The integers of a layer, of at most `bits` bits, for the ranges of the plan.

        Each weight becomes the nearest integer; then those of the `repairs` that change integers or biases follow.
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
        """Power of the error of a layer's output over the power of the output, with rounded input and weights."""
        fact, rows = self.facts[name], self.rows[name]
        rounded = plan.rounded.get(name) or self.round(plan, name, plan.layers[name].weight_bits, ())
        weights = self.weights[name], rounded.weights(fact.axis)
        first, second = (input_rows.weight_matrix(weight, fact).transpose(0, 2, 1) for weight in weights)
        rounded_rows = round_input(rows, plan.tensors[fact.layer.input], self.spec.asymmetric)
        # (groups, rows, columns) @ (groups, columns, outputs) = (groups, rows, outputs)
        expected, actual = rows.transpose(1, 0, 2) @ first, rounded_rows.transpose(1, 0, 2) @ second
        # The variance over rows leaves out the mean error, which a bias correction removes.
        power = float(expected.var(axis=1).mean())
        return float((actual - expected).var(axis=1).mean()) / max(power, SILENT)


def draw(
    model: onnx.ModelProto,
    graph: Path,
    layers: Mapping[str, PlannedLayer],
    spec: Spec,
    batches: Batches,
    rounding: Mapping[str, RoundWeights],
) -> LayerData:
    """Data of the `layers` that can run in int8 on the target and whose rows can be drawn (see `input_rows.drawable`).

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
    """The bias of each layer, (channels,), or None for a layer without one."""
    constants = {entry.name: entry for entry in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    biases: dict[str, np.ndarray | None] = {}
    for name, fact in layers.items():
        constant = nodes[name].input[2] if len(nodes[name].input) > 2 else ""
        values = numpy_helper.to_array(constants[constant]).ravel() if constant else None
        biases[name] = None if values is None else np.broadcast_to(values, (fact.channels,))
    return biases
