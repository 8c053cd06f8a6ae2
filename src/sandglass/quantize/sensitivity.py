"""What each layer costs in accuracy when it alone is rounded: its noise at the network's output, by simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sandglass.graph.execute import GraphSession
from sandglass.graph.load import load_graph
from sandglass.quantize.plan import Plan
from sandglass.quantize.spec import Spec, decide

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


def change_power(first: Outputs, second: Outputs) -> float:
    """Sum of the squared differences of two runs' outputs."""
    return sum(float(((first[name] - second[name]) ** 2).sum()) for name in first)


def noise(expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """Power of the difference over the power of the expected outputs, both summed over batches.

    Powers of single layers add up nearly to that of all. A single output may be next to nothing, as a detector's is
    where there is nothing to be found; a mean of shares would be that output's alone.
    """
    error = signal = 0.0
    for first, second in zip(expected, found, strict=True):
        error += change_power(first, second)
        signal += sum(float((values**2).sum()) for values in first.values())
    return error / max(signal, 1e-12)


def decibels(power: float) -> float:
    """Signal over noise in dB, from noise over signal."""
    return -10 * float(np.log10(max(power, 1e-12)))
