"""What each layer costs in accuracy when it alone is rounded: its noise at the network's output, by simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sandglass.graph.io import load_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization.plan import Plan
from sandglass.quantization.spec import Spec, decide

EXACT = 1e-12  # noise of what is equal but for the last bits
Outputs = Mapping[str, np.ndarray]
Batches = Sequence[Outputs]


def only(plan: Plan, kept: Sequence[str]) -> Plan:
    """The plan with every layer in float but those in `kept`."""
    layers = {
        name: layer if name in kept else replace(layer, keep_float=True, reason="left out")
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def without(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """The plan with the layers in `reasons` in float, each for its reason."""
    layers = {
        name: replace(layer, keep_float=True, reason=reasons[name]) if name in reasons else layer
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def integer_layers(graph: Path, plan: Plan, spec: Spec) -> list[str]:
    """Layers that a target with `spec` runs in int8 under `plan`, in the graph's order."""
    return [name for name, reason in decide(plan, spec, load_graph(graph)).items() if not reason]


def run(session: GraphSession, batches: Batches) -> list[Outputs]:
    """Outputs by name for each batch."""
    return [session.run(batch) for batch in batches]


def changes(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> np.ndarray:
    """Power of the difference between two runs' outputs, (inputs,) float64."""
    return np.array([
        sum(float(((first[name] - second[name]) ** 2).sum()) for name in first)
        for first, second in zip(expected, actual, strict=True)
    ])  # fmt: skip


def powers(expected: Sequence[Outputs]) -> np.ndarray:
    """Power of the outputs, (inputs,) float64."""
    return np.array([sum(float((values**2).sum()) for values in outputs.values()) for outputs in expected])


def noise(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """Power of the difference over the power of the expected outputs: the geometric mean over inputs that have any.

    Noise has a long tail: most of a sum would be a few inputs' whose peaks are clipped, most of a mean of ratios a
    detector's on an image where there is nothing to be found.
    """
    power = powers(expected)
    ratios = changes(expected, actual)[power > 0] / power[power > 0]
    return float(np.exp(np.log(np.maximum(ratios, EXACT)).mean())) if len(ratios) else 0.0


def layer_noises(changed: np.ndarray, power: np.ndarray, full: Sequence[int]) -> np.ndarray:
    """What each way of a layer adds to the `noise` of all layers, (ways,).

    `changed` (ways, inputs) is the change that each way makes alone, `power` (inputs,) that of the outputs; the rows in
    `full` make up a network that is all in int8. Powers of single layers add up nearly to that of all. On each input
    counts a way's share in their sum, so that no input counts for more than another.
    """
    together = changed[list(full)].sum(axis=0)  # (inputs,): of a network that is all in int8, nearly
    used = (together > 0) & (power > 0)
    if not used.any():
        return np.zeros(len(changed))
    # noise = geometric mean over inputs of (sum of all layers' changes) / power. A layer's part of it is the mean of
    # its share in that sum, so that the parts of all layers add up to the noise.
    typical = np.exp(np.log(together[used] / power[used]).mean())
    return np.asarray(typical * (changed[:, used] / together[used]).mean(axis=1))


def decibels(power: float) -> float:
    """Signal over noise in dB, from noise over signal."""
    return -10 * float(np.log10(max(power, EXACT)))
