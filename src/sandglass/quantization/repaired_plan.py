"""A plan with repairs for one target, and the graph after the repairs of a plan.

Repairs depend on a target through its Spec only: whether activations have a zero point, and the bits of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from sandglass.core.json_values import JsonObject
from sandglass.core.parallel import in_threads
from sandglass.core.progress import Say
from sandglass.graph.io import load_graph
from sandglass.graph.layers import facts, fingerprint
from sandglass.quantization.channel_offsets import offset_tensors
from sandglass.quantization.edits import Rounded, SetWeights, apply_edits
from sandglass.quantization.layer_data import LayerData
from sandglass.quantization.output_noise import Batches
from sandglass.quantization.plan import Plan
from sandglass.quantization.repair_state import Network, NetworkState, RangeState, read_ranges
from sandglass.quantization.repairs import (
    NetworkStep,
    RangeStep,
    WeightStep,
    chosen_repairs,
    load_repairs,
    steps_of,
)
from sandglass.quantization.spec import Spec, decide


def repaired_plan(
    graph: Path,
    batches: Batches,
    spec: Spec,
    scratch: Path,
    method: str = "mse",
    repairs: Sequence[str] | None = None,
    calibration: JsonObject | None = None,
    say: Say = lambda line: None,
) -> tuple[Plan, LayerData]:
    """A plan for a target with `spec`, and the data with which single layers can be rounded again.

    `repairs` are names (default: all repairs). Graphs are written into the folder `scratch`. Raises DatasetError if
    there are no batches, PlanError for activations that are not finite, and InputError for an unknown repair.
    """
    chosen = load_repairs() if repairs is None else chosen_repairs(repairs)
    names = tuple(repair.NAME for repair in chosen)
    rounding = {name: step.round for name, step in steps_of(load_repairs(), WeightStep)}
    network = _network(graph, batches, spec)
    state = NetworkState(
        source=graph, scratch=scratch, network=network, spec=spec, batches=batches, method=method, repairs=names,
        rounding=rounding, say=say,
    )  # fmt: skip
    for _, network_step in steps_of(chosen, NetworkStep):
        state = network_step.plan(state)
    range_state = read_ranges(state)
    for _, range_step in steps_of(chosen, RangeStep):
        range_state = range_step.plan(range_state)
    plan = _plan(range_state, calibration or {})
    # Weights last: their rounding depends on the final ranges of the layers' inputs.
    if steps_of(chosen, WeightStep):
        say(f"repair: rounding the weights of {len(range_state.data.rows)} layers")
        plan = plan.with_edit(SetWeights(_rounded(range_state.data, plan)))
    return plan, range_state.data


def _rounded(data: LayerData, plan: Plan) -> dict[str, Rounded]:
    """The weights of all layers with rows, rounded to the bits of the plan; uses all cores."""

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


def _network(graph: Path, batches: Batches, spec: Spec) -> Network:
    """The network in the file `graph`, with the layers that a target with `spec` can run in int8."""
    model = load_graph(graph)
    integer = {name for name, fact in facts(model).items() if spec.runs(fact)}
    offsets = offset_tensors(model, integer, spec.pads)
    return Network(graph, frozenset(integer), offsets, batches)


def repaired(graph: Path, plan: Plan, spec: Spec) -> onnx.ModelProto:
    """The graph after the plan's edits, for the layers that a target with `spec` runs in int8."""
    model = load_graph(graph)
    integer = [name for name, reason in decide(plan, spec, model).items() if not reason]
    return apply_edits(model, plan.edits, integer)
