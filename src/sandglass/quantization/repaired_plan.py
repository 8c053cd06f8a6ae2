"""A plan with repairs for one target, and the graph with a plan's repairs in it.

Repairs know of a target only its Spec: whether activations have a zero point, and how many bits its weights may have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from sandglass.core.json_values import JsonObject
from sandglass.core.parallel import in_threads
from sandglass.core.progress import Say
from sandglass.graph.io import load_graph
from sandglass.graph.layers import facts, fingerprint
from sandglass.quantization.channel_offsets import offset_tensors
from sandglass.quantization.channel_ranges import Ends
from sandglass.quantization.edits import Rounded, SetWeights, apply_edits
from sandglass.quantization.layer_data import LayerData
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import Plan
from sandglass.quantization.qdq import rounded_range
from sandglass.quantization.repair_state import Network, NetworkState, RangeState, read_ranges
from sandglass.quantization.repairs import (
    NetworkStep,
    RangeStep,
    WeightStep,
    chosen_repairs,
    load_repairs,
    steps_of,
    working,
)
from sandglass.quantization.spec import Spec, decide


def choices(graph: Path, spec: Spec, repairs: Sequence[str]) -> list[list[str]]:
    """The sets of repairs to compare, the surest first: those that never add noise, then with more that may.

    A repair that is to be compared (see `Comparison`) comes with all others of its level, and a level is left out where
    none of them changes anything in the network. Raises InputError for an unknown repair.
    """
    chosen = chosen_repairs(repairs)
    compared = {repair.NAME: repair.COMPARISON for repair in chosen if repair.COMPARISON}
    usable = {repair.NAME for repair in working(chosen)}
    network = _network(graph, (), spec, None)
    changing = {entry.level for name, entry in compared.items() if name in usable and entry.changes(network)}
    return [
        [name for name in repairs if name not in compared or compared[name].level <= level]
        for level in (0, *sorted(changing))
    ]


def repaired_plan(
    graph: Path,
    batches: Batches,
    spec: Spec,
    scratch: Path,
    method: str = "mse",
    repairs: Sequence[str] | None = None,
    calibration: JsonObject | None = None,
    say: Say = lambda line: None,
    uneven: Plan | None = None,
) -> tuple[Plan, LayerData]:
    """A plan for a target with `spec`, and the data to round single layers again.

    `repairs` are names (default: all repairs). Equalization brings channels together as far as `uneven`, a plan made
    without it, clips them. Graphs are written into the folder `scratch`. Raises DatasetError without batches, PlanError
    for activations that are not finite, and InputError for an unknown repair.
    """
    chosen = load_repairs() if repairs is None else chosen_repairs(repairs)
    names, active = tuple(repair.NAME for repair in chosen), working(chosen)
    rounding = {name: step.round for name, step in steps_of(load_repairs(), WeightStep)}
    network = _network(graph, batches, spec, uneven)
    state = NetworkState(
        source=graph, scratch=scratch, network=network, spec=spec, batches=batches, method=method, repairs=names,
        rounding=rounding, say=say,
    )  # fmt: skip
    for _, network_step in steps_of(active, NetworkStep):
        state = network_step.plan(state)
    ranged = read_ranges(state)
    for _, range_step in steps_of(active, RangeStep):
        ranged = range_step.plan(ranged)
    plan = _plan(ranged, calibration or {})
    if steps_of(active, WeightStep):
        say(f"repair: rounding the weights of {len(ranged.data.rows)} layers")
        plan = plan.with_edit(SetWeights(_rounded(ranged.data, plan)))
    return plan, ranged.data


def _rounded(data: LayerData, plan: Plan) -> dict[str, Rounded]:
    """All layers that can be rounded, each to the bits of the plan, on all cores."""

    def round_layer(name: str) -> Rounded:
        return data.round(plan, name, plan.layers[name].weight_bits, plan.repairs)

    return dict(zip(data.rows, in_threads(round_layer, data.rows, "rounding a layer"), strict=True))


def _plan(state: RangeState, calibration: JsonObject) -> Plan:
    return Plan(
        graph=fingerprint(load_graph(state.source)),
        method=state.method,
        tensors=state.ranges,
        layers=state.layers,
        calibration=calibration,
        repairs=state.repairs,
        edits=state.edits,
    )


def _network(graph: Path, batches: Batches, spec: Spec, uneven: Plan | None) -> Network:
    """The network in the file `graph`, of which a target with `spec` can run some layers in int8."""
    model = load_graph(graph)
    integer = {name for name, fact in facts(model).items() if spec.runs(fact)}
    offsets = offset_tensors(model, integer, spec.pads)
    return Network(graph, frozenset(integer), offsets, batches, clip_ends(uneven, spec) if uneven else {})


def clip_ends(plan: Plan, spec: Spec) -> Ends:
    """The values, in the float network, at which a plan without equalization clips a tensor's channels."""
    ends = {}
    for name, seen in plan.tensors.items():
        if seen.threshold > 0:
            low, high = rounded_range(seen, spec.asymmetric)
            offset = plan.offsets.get(name, np.zeros(1, np.float32))  # the plan's range is that of x - offset
            ends[name] = low + offset, high + offset
    return ends


def repaired(graph: Path, plan: Plan, spec: Spec) -> tuple[onnx.ModelProto, Plan]:
    """The graph with the plan's edits in it, for the layers that a target with `spec` runs in int8, and its plan.

    That plan has the weights' scales of the graph as it is, where channels that were to be split are not.
    """
    model = load_graph(graph)
    integer = [name for name, reason in decide(plan, spec, model).items() if not reason]
    model = apply_edits(model, plan.edits, integer)
    return model, plan.with_weights(SetWeights(plan.rounded).fitted(model).rounded)
