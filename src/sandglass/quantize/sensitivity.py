"""What each layer costs in accuracy when it alone is rounded: its noise at the network's output, by simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sandglass.graph.execute import GraphSession
from sandglass.graph.load import load_graph
from sandglass.quantize.plan import Plan
from sandglass.quantize.simulate import simulate
from sandglass.quantize.spec import Spec, decide

Batches = Sequence[Mapping[str, np.ndarray]]


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


def noises(graph: Path, plan: Plan, spec: Spec, batches: Batches, layers: Sequence[str]) -> Iterator[tuple[str, float]]:
    """For each of `layers`, rounded alone: power of the error at the outputs over power of the outputs.

    The mean over `batches`, each of which counts the same. Powers of single layers add up nearly to that of all.
    """
    expected = outputs(GraphSession(graph), batches)
    for name in layers:
        yield name, noise(expected, outputs(simulate(graph, only(plan, [name]), spec), batches))


def outputs(session: GraphSession, batches: Batches) -> list[np.ndarray]:
    """All outputs of each batch, flat."""
    return [np.concatenate([value.ravel() for value in session.run(batch).values()]) for batch in batches]


def noise(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Mean over samples of the power of the difference over the power of the expected values."""
    pairs = zip(expected, found, strict=True)
    return float(np.mean([((a - b) ** 2).sum() / max(float((a**2).sum()), 1e-12) for a, b in pairs]))


def decibels(power: float) -> float:
    """Signal over noise in dB, from noise over signal."""
    return -10 * float(np.log10(max(power, 1e-12)))
