"""From a graph and its calibration set to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from sandglass.core.json_values import JsonObject
from sandglass.core.parallel import in_threads
from sandglass.graph.io import load_graph, static_inputs
from sandglass.graph.layers import find_layers, fingerprint, measured_tensors
from sandglass.graph.session import GraphSession
from sandglass.graph.shared_values import carriers
from sandglass.quantization import shared_ranges
from sandglass.quantization.plan import Plan, PlannedLayer, TensorRange, planned_layers
from sandglass.quantization.statistics import gather
from sandglass.quantization.thresholds import threshold

# Operators that average many values. Independent rounding errors cancel out in a mean, but the losses by clipping all
# have the same sign. So a tensor that only these read is not clipped.
MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
# Threshold of a tensor that counts as 0: the factor from its values to integers, 127 / threshold, could overflow.
DEAD = 1e-12


def make_plan(
    graph: Path,
    batches: Iterable[np.ndarray | Mapping[str, np.ndarray]],
    method: str,
    calibration: JsonObject | None = None,
) -> Plan:
    """Measure the ranges of a graph on `batches` and choose thresholds by `method`.

    A batch holds arrays by the name of the input, or is the array of the first input; arrays have the batch first.
    `calibration` describes the origin of the batches and is stored in the plan. Raises DatasetError without batches and
    PlanError for activations that are not finite.
    """
    return make_plans(graph, batches, [method], calibration)[method]


def make_plans(
    graph: Path,
    batches: Iterable[np.ndarray | Mapping[str, np.ndarray]],
    methods: Iterable[str],
    calibration: JsonObject | None = None,
) -> dict[str, Plan]:
    """The plans of several methods, by method, from one pass over the batches; see `make_plan`."""
    model = load_graph(graph)
    layers, tensors, graph_hash = planned_layers(find_layers(model)), measured_tensors(model), fingerprint(model)
    inputs, stands = list(static_inputs(model)), carriers(model, tensors)
    means = {node.input[0] for node in model.graph.node if node.op_type in MEANS}
    session = GraphSession(model, outputs=[name for name in tensors if name not in inputs])
    del model  # frees the memory of a large model while the session runs
    named = (batch if isinstance(batch, Mapping) else {inputs[0]: batch} for batch in batches)
    statistics = gather(session, tensors, named)
    layer_inputs = {layer.input for layer in layers.values()}

    def choose_threshold(name: str, method: str) -> float:
        unclipped = name in means and name not in layer_inputs
        return threshold(statistics[name], "minmax" if unclipped else method, name in layer_inputs)

    def plan(method: str) -> Plan:
        thresholds = in_threads(partial(choose_threshold, method=method), statistics, "choosing a threshold")
        ranges = {
            name: TensorRange(entry.minimum, entry.maximum, clipped)
            for (name, entry), clipped in zip(statistics.items(), thresholds, strict=True)
        }
        ranges = shared_ranges.shared(ranges, {name: stands[name] for name in ranges}, layer_inputs)
        decisions = {name: _decide(layer, ranges) for name, layer in layers.items()}
        return Plan(graph_hash, method, ranges, decisions, calibration or {})

    return {method: plan(method) for method in methods}


def load_plan(path: Path, graph: Path) -> Plan:
    """Read a plan and check that it belongs to the graph. Raises PlanError if it does not."""
    model, plan = load_graph(graph), Plan.load(path)
    graph_hash, layers = fingerprint(model), find_layers(model)
    # Some edits let layers read new tensors: the check has to see the graph with these edits.
    moved = {name for name in layers if name in plan.layers and plan.layers[name].input != layers[name].input}
    for edit in plan.edits:
        model = edit.apply(model, moved) if edit.RENAMES else model
    renamed = {name: replace(layer, weight=layers[name].weight) for name, layer in find_layers(model).items()}
    plan.check(graph_hash, renamed, measured_tensors(model))
    return plan


def _decide(planned: PlannedLayer, ranges: Mapping[str, TensorRange]) -> PlannedLayer:
    if planned.input not in ranges:
        return replace(planned, keep_float=True, reason="its input is not float32")
    if ranges[planned.input].threshold > DEAD:
        return planned
    return replace(planned, keep_float=True, reason="its input was 0 on every calibration sample")
