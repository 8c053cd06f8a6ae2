"""The float network's layers as they are rounded: weights, biases, and rows of what they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sandglass.core.parallel import in_threads
from sandglass.graph.layers import Facts, facts
from sandglass.graph.work import spread
from sandglass.quantization import input_rows, weight_rounding
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import Plan
from sandglass.quantization.plan_arrays import Rounded
from sandglass.quantization.spec import Spec

COMPENSATE, BIAS = "compensated rounding", "bias correction"  # repairs of how a layer is rounded
SAMPLES = 128  # calibration inputs that rows are drawn from


@dataclass(frozen=True)
class Material:
    """What the equalized network's layers have, and what they saw: enough to round any of them anew."""

    spec: Spec
    facts: dict[str, Facts]
    weights: dict[str, np.ndarray]
    biases: dict[str, np.ndarray | None]
    rows: dict[str, np.ndarray]

    def shifted(self, model: onnx.ModelProto, offsets: Mapping[str, np.ndarray]) -> Material:
        """What it is after `offsets` of tensors, (channels,) or (1,), were taken off, in `model` too."""
        rows = {}
        for name, fact in self.facts.items():
            rows[name] = seen = self.rows[name]
            if (values := offsets.get(fact.layer.input)) is not None:
                each = np.repeat(values, seen[0].size // values.size).reshape(seen.shape[1:])
                rows[name] = (seen - each).astype(np.float32)
        return replace(self, rows=rows, biases=biases(model, self.facts))

    def round(self, plan: Plan, name: str, bits: int, repairs: Sequence[str]) -> Rounded:
        """A layer's integers under the plan's ranges."""
        fact = self.facts[name]
        return weight_rounding.round_layer(
            self.weights[name],
            self.biases[name],
            fact,
            self.rows[name],
            plan.tensors[fact.layer.input],
            self.spec.asymmetric,
            self.spec.weight_bits(fact, bits),
            COMPENSATE in repairs,
            BIAS in repairs,
        )

    def local_noise(self, plan: Plan, name: str) -> float:
        """Power of a layer's output error over the power of its output, when its input and weights are rounded."""
        fact, rows = self.facts[name], self.rows[name]
        rounded = plan.arrays.rounded.get(name) or self.round(plan, name, plan.layers[name].weight_bits, ())
        shape = [-1 if i == fact.axis else 1 for i in range(rounded.integers.ndim)]
        weights = rounded.integers * rounded.scales.reshape(shape)
        first, second = (input_rows.weight_matrix(w, fact).transpose(0, 2, 1) for w in (self.weights[name], weights))
        seen = weight_rounding.round_input(rows, plan.tensors[fact.layer.input], self.spec.asymmetric)
        expected, found = rows.transpose(1, 0, 2) @ first, seen.transpose(1, 0, 2) @ second
        power = float(expected.var(axis=1).mean())
        return float((found - expected).var(axis=1).mean()) / max(power, 1e-12)


def draw(model: onnx.ModelProto, graph: Path, plan: Plan, spec: Spec, batches: Batches) -> Material:
    """Material of the layers that can be repaired; the file `graph` holds `model`, which the plan's ranges are of."""
    constants = {entry.name: entry for entry in model.graph.initializer}
    wanted = {
        name: fact
        for name, fact in input_rows.repairable(model, facts(model)).items()
        if not plan.layers[name].keep_float and fact.layer.operator in spec.operators
    }
    weights = {name: numpy_helper.to_array(constants[fact.layer.weight]) for name, fact in wanted.items()}
    used = spread(batches, SAMPLES)
    return Material(spec, wanted, weights, biases(model, wanted), input_rows.draw(graph, wanted, used, len(used)))


def biases(model: onnx.ModelProto, wanted: Mapping[str, Facts]) -> dict[str, np.ndarray | None]:
    """The bias, (channels,), of each layer that has one, and None of the others."""
    constants = {entry.name: entry for entry in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    found: dict[str, np.ndarray | None] = {}
    for name, fact in wanted.items():
        given = nodes[name].input[2] if len(nodes[name].input) > 2 else ""
        values = numpy_helper.to_array(constants[given]).ravel() if given else None
        found[name] = None if values is None else np.broadcast_to(values, (fact.channels,))
    return found


def round_layers(material: Material, plan: Plan, bits: Mapping[str, int], repairs: Sequence[str]) -> dict[str, Rounded]:
    """The layers named in `bits`, each rounded to its number of bits, on all cores."""
    rounded = in_threads(lambda name: material.round(plan, name, bits[name], repairs), bits, "rounding a layer")
    return dict(zip(bits, rounded, strict=True))
