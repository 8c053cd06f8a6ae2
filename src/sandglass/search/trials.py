"""Trials: the repaired plan of a source, plans with other layers or bits, and artifacts that are built and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandglass.artifacts import parity
from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.build import BuildRequest, build_artifact
from sandglass.artifacts.target import Target
from sandglass.core.errors import InputError
from sandglass.core.parallel import in_threads
from sandglass.core.progress import Say
from sandglass.quantization import output_noise
from sandglass.quantization.automatic_method import automatic_plan
from sandglass.quantization.calibration import drawn
from sandglass.quantization.edits import Rounded
from sandglass.quantization.layer_data import LayerData
from sandglass.quantization.plan import Plan
from sandglass.quantization.repaired_plan import repaired_plan
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.repairs.output_thresholds import NAME as OUTPUT_THRESHOLDS
from sandglass.quantization.thresholds import AUTO
from sandglass.search.inputs import SearchInputs
from sandglass.search.run import PLANS, Run

FIRST_METHOD = "mse"  # method for thresholds before a repair chooses them by the outputs of layers


@dataclass(frozen=True)
class RepairedPlan:
    """The plan for one backend, and the data with which its layers are rounded to other numbers of bits.

    `integer_layers` are the layers in int8 under the plan, in the graph's order. `roundings` holds the variants of
    layers that the plan itself does not have, by the name of the layer and the bits of its weights (see
    `with_variants`).
    """

    plan: Plan
    layer_data: LayerData
    integer_layers: tuple[str, ...]
    roundings: Mapping[tuple[str, int], Rounded] = field(default_factory=dict)


def repairs_without(names: Sequence[str]) -> list[str]:
    """All repairs except those in `names`, with spaces or hyphens. Raises InputError for an unknown name."""
    options = {name.replace(" ", "-"): name for name in repair_names()}
    if unknown := [name for name in names if name not in {*options, *options.values()}]:
        raise InputError(f"unknown repair {unknown[0]!r}", f"known: {', '.join(options)}")
    return [name for option, name in options.items() if option not in names and name not in names]


def full_int8_plan(inputs: SearchInputs, repairs: Sequence[str], run: Run) -> RepairedPlan:
    """The plan with `repairs` and all layers in int8 that the target can run in int8.

    Raises DatasetError without inputs, and PlanError for activations that are not finite.
    """
    run.left.expect(PLANS, 1)
    plan, layer_data = repaired_plan(
        inputs.source.graph, inputs.batches, inputs.spec, run.scratch, _method(inputs, repairs), repairs,
        drawn(inputs.calibration, inputs.range_looks), run.say,
    )  # fmt: skip
    run.left.step(PLANS)
    integer = tuple(output_noise.integer_layers(inputs.source.graph, plan, inputs.spec))
    return RepairedPlan(plan, layer_data, integer)


def _method(inputs: SearchInputs, repairs: Sequence[str]) -> str:
    """The method for the thresholds that no repair chooses."""
    method = inputs.calibration.method
    if method != AUTO:
        return method
    # The repair replaces nearly all thresholds of the method: a comparison of methods would have no effect.
    return FIRST_METHOD if OUTPUT_THRESHOLDS in repairs else automatic_plan(inputs.source.graph, inputs.batches).method


def with_variants(inputs: SearchInputs, repaired: RepairedPlan) -> RepairedPlan:
    """The same plan, with its rounded layers also rounded to the other numbers of bits that the target offers."""
    plan, data = repaired.plan, repaired.layer_data
    variants = [
        (name, bits)
        for name in repaired.integer_layers
        for bits in inputs.spec.bits(inputs.layers[name])
        if name in plan.rounded and bits != _planned_bits(inputs, plan, name)
    ]
    roundings = in_threads(lambda variant: data.round(plan, *variant, plan.repairs), variants, "rounding a layer")
    return replace(repaired, roundings=dict(zip(variants, roundings, strict=True)))


def _planned_bits(inputs: SearchInputs, plan: Plan, name: str) -> int:
    """Bits of a layer's weights under the plan."""
    return inputs.spec.weight_bits(inputs.layers[name], plan.layers[name].weight_bits)


def plan_with(
    inputs: SearchInputs, repaired: RepairedPlan, bits: Mapping[str, int], reasons: Mapping[str, str]
) -> Plan:
    """The plan with other layers or bits.

    The weights of the layers in `bits` are rounded to those numbers of bits. The layers in `reasons` are in float, each
    with its reason.
    """
    plan = repaired.plan
    changed = {name: count for name, count in bits.items() if count != _planned_bits(inputs, plan, name)}
    layers = plan.layers | {name: replace(plan.layers[name], weight_bits=count) for name, count in changed.items()}
    rounded = dict(plan.rounded)
    rounded |= {name: repaired.roundings[name, count] for name, count in changed.items() if name in rounded}
    return output_noise.without(replace(plan, layers=layers).with_weights(rounded), reasons)


def build_exact(inputs: SearchInputs, plan: Plan | None, folder: Path, say: Say) -> Artifact:
    """The artifact of a plan, or the float one for None, in `folder`. Raises the error that stopped the build."""
    return _build(inputs, plan, inputs.reference, folder, say)


def build_trial(inputs: SearchInputs, plan: Plan, folder: Path, say: Say) -> Artifact:
    """The artifact of a plan for measurements; it may differ from float by any amount.

    Raises the error that stopped the build.
    """
    return _build(inputs, plan, inputs.reference.lenient(), folder, say)


def _build(inputs: SearchInputs, plan: Plan | None, reference: parity.Reference, folder: Path, say: Say) -> Artifact:
    target = Target(inputs.backend, "int8" if plan else "fp32")
    outcome = build_artifact(target, BuildRequest(inputs.source, plan, reference, folder, say, force=True))
    if outcome.artifact is None:
        raise outcome.error or InputError(f"{target} was not built")
    return outcome.artifact
