"""From a graph and its calibration set to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.core.parallel import in_threads
from sandglass.graph.io import load_graph, static_inputs
from sandglass.graph.layers import find_layers, fingerprint, measured_tensors
from sandglass.graph.session import GraphSession
from sandglass.graph.shared_values import carriers
from sandglass.quantization import shared_ranges
from sandglass.quantization.plan import Plan, PlannedLayer, TensorRange, planned_layers
from sandglass.quantization.statistics import gather
from sandglass.quantization.thresholds import threshold

# A mean of many values has little of their rounding errors, which are independent, but all of what clipping takes off.
MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
# Values of a tensor that are all smaller count as 0: the factor to their integers might be more than a float32 holds.
DEAD = 1e-12


def make_plan(
    graph: Path,
    batches: Iterable[np.ndarray | Mapping[str, np.ndarray]],
    method: str,
    calibration: dict[str, Any] | None = None,
) -> Plan:
    """Measure the ranges of a graph on `batches` and choose thresholds by `method`.

    A batch is arrays by the name of the input, or the array of the first one. `calibration` is recorded in the plan:
    where the batches came from. Raises DatasetError without batches, PlanError for activations that are not finite.
    """
    return make_plans(graph, batches, [method], calibration)[method]


def make_plans(
    graph: Path,
    batches: Iterable[np.ndarray | Mapping[str, np.ndarray]],
    methods: Iterable[str],
    calibration: dict[str, Any] | None = None,
) -> dict[str, Plan]:
    """`make_plan` for several methods, by their names, from one pass over the batches."""
    model = load_graph(graph)
    layers, tensors, mark = planned_layers(find_layers(model)), measured_tensors(model), fingerprint(model)
    inputs, stands = list(static_inputs(model)), carriers(model, tensors)
    means = {node.input[0] for node in model.graph.node if node.op_type in MEANS}
    session = GraphSession(model, outputs=[name for name in tensors if name not in inputs])
    del model  # a large one need not be in memory while it runs
    named = (batch if isinstance(batch, Mapping) else {inputs[0]: batch} for batch in batches)
    statistics = gather(session, tensors, named)
    read = {layer.input for layer in layers.values()}

    def chosen(name: str, method: str) -> float:
        unclipped = name in means and name not in read
        return threshold(statistics[name], "minmax" if unclipped else method, name in read)

    def plan(method: str) -> Plan:
        thresholds = in_threads(partial(chosen, method=method), statistics, "choosing a threshold")
        ranges = {
            name: TensorRange(entry.minimum, entry.maximum, clipped)
            for (name, entry), clipped in zip(statistics.items(), thresholds, strict=True)
        }
        ranges = shared_ranges.shared(ranges, {name: stands[name] for name in ranges}, read)
        decided = {name: _decide(layer, ranges) for name, layer in layers.items()}
        return Plan(mark, method, ranges, decided, calibration or {})

    return {method: plan(method) for method in methods}


def load_plan(path: Path, graph: Path) -> Plan:
    """Read a plan and check that it fits the graph; raises PlanError."""
    model, plan = load_graph(graph), Plan.load(path)
    mark, layers = fingerprint(model), find_layers(model)
    moved = {name for name in layers if name in plan.layers and plan.layers[name].input != layers[name].input}
    for edit in plan.edits:
        model = edit.apply(model, moved) if edit.RENAMES else model
    renamed = {name: replace(layer, weight=layers[name].weight) for name, layer in find_layers(model).items()}
    plan.check(mark, renamed, measured_tensors(model))
    return plan


def _decide(planned: PlannedLayer, ranges: Mapping[str, TensorRange]) -> PlannedLayer:
    if planned.input not in ranges:
        return replace(planned, keep_float=True, reason="its input is not float32")
    if ranges[planned.input].threshold > DEAD:
        return planned
    return replace(planned, keep_float=True, reason="its input was 0 on every calibration sample")
