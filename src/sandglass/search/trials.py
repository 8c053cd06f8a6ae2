"""Trials: the repaired plan of a source, plans with other layers or bits, and artifacts built to be measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sandglass.artifacts import parity
from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.build import BuildRequest, build_artifact
from sandglass.artifacts.target import Target
from sandglass.core.errors import InputError
from sandglass.core.parallel import in_threads
from sandglass.core.progress import Say
from sandglass.graph.session import GraphSession
from sandglass.graph.work import inputs_to_try, spread
from sandglass.quantization import output_noise
from sandglass.quantization.automatic_method import automatic_plan
from sandglass.quantization.calibration import drawn
from sandglass.quantization.edits import Rounded
from sandglass.quantization.layer_data import LayerData
from sandglass.quantization.output_noise import OutputNoise
from sandglass.quantization.plan import Plan
from sandglass.quantization.repaired_plan import REPAIRS, choices, repaired_plan
from sandglass.quantization.repairs import UNSEEN, chosen_repairs
from sandglass.quantization.simulate import simulate
from sandglass.quantization.thresholds import AUTO
from sandglass.search.inputs import SearchInputs
from sandglass.search.run import PLANS, Run
from sandglass.sources.source import Source

# Inputs that a whole plan is tried on, at most. It bounds the time of a trial: all of a usual calibration set with its
# wider copies. `inputs_to_try` takes fewer where the network is large.
PLAN_SAMPLES = 128
# Share of the best plan's noise that a plan may leave whose repairs change the float network for values that were not
# seen: a small gain on seen ones does not justify that. Not measured on several networks.
UNSEEN_SHARE = 0.8


@dataclass(frozen=True)
class RepairedPlan:
    """The best plan for one backend, and what it takes to round its layers to other numbers of bits.

    `integer_layers` run in int8 under the plan, in the graph's order. `roundings` holds each variant of a layer, by
    name and bits of its weights, that the plan itself does not have.
    """

    plan: Plan
    layer_data: LayerData
    integer_layers: tuple[str, ...]
    roundings: Mapping[tuple[str, int], Rounded]


@dataclass(frozen=True)
class RepairTrial:
    """A plan with some repairs, and its noise at the network's outputs as a share of their power."""

    repairs: tuple[str, ...]
    noise: float
    plan: Plan
    layer_data: LayerData


def repairs_without(names: Sequence[str]) -> list[str]:
    """All repairs but those in `names`; raises InputError for a name that is unknown."""
    options = {name.replace(" ", "-"): name for name in REPAIRS}
    if unknown := [name for name in names if name not in options and name not in REPAIRS]:
        raise InputError(f"unknown repair {unknown[0]!r}", f"known: {', '.join(options)}")
    return [name for option, name in options.items() if option not in names and name not in names]


def best_repaired_plan(inputs: SearchInputs, repairs: Sequence[str], run: Run) -> RepairedPlan:
    """The plan with `repairs`, or with less equalization where that leaves less noise.

    Equalizing channels helps activations and hurts weights: which weighs more depends on the network. The first trial
    is without it; where that plan clips its channels says how far they have to be equalized.
    """
    source = inputs.source
    method = inputs.calibration.method
    if method == AUTO:
        method = automatic_plan(source.graph, inputs.batches).method
    sample = spread(inputs.batches, inputs_to_try(inputs.total_macs, PLAN_SAMPLES))
    expected, measure = output_noise.run(GraphSession(source.graph), sample), OutputNoise.of(source.graph)
    calibration = drawn(inputs.calibration, inputs.range_looks)

    def trial(names: Sequence[str], unequalized: Plan | None) -> RepairTrial:
        plan, layer_data = repaired_plan(
            source.graph,
            inputs.batches,
            inputs.spec,
            source.graph.parent,
            method,
            names,
            calibration,
            run.say,
            unequalized,
        )
        session, started = simulate(source.graph, plan, inputs.spec), time.monotonic()
        noise = measure.noise(expected, output_noise.run(session, sample))
        run.left.measured((time.monotonic() - started) / len(sample))
        run.left.step(PLANS)
        run.say(f"repair: {', '.join(names) or 'none'}: {output_noise.decibels(noise):.1f} dB at the output")
        return RepairTrial(tuple(names), noise, plan, layer_data)

    first, *others = choices(source.graph, inputs.spec, repairs)
    run.left.expect(PLANS, 1 + len(others))
    best = trial(first, None)
    unequalized = best.plan
    for names in others:
        best = quieter(best, trial(names, unequalized))
    integer = output_noise.integer_layers(source.graph, best.plan, inputs.spec)
    return RepairedPlan(
        best.plan, best.layer_data, tuple(integer), _other_roundings(inputs, best.plan, best.layer_data, integer)
    )


def quieter(best: RepairTrial, other: RepairTrial) -> RepairTrial:
    """The trial with less noise; one that changes the network for unseen values has to leave UNSEEN_SHARE of it."""
    levels = [repair.COMPARISON.level for repair in chosen_repairs(other.repairs) if repair.COMPARISON]
    return other if other.noise < best.noise * (UNSEEN_SHARE if UNSEEN in levels else 1.0) else best


def _other_roundings(
    inputs: SearchInputs, plan: Plan, layer_data: LayerData, integer: Sequence[str]
) -> dict[tuple[str, int], Rounded]:
    """Layers rounded to numbers of bits that the target offers besides the plan's, where the plan rounds them."""
    variants = [
        (name, bits)
        for name in integer
        for bits in inputs.spec.bits(inputs.layers[name])
        if name in plan.rounded and bits != _planned_bits(inputs, plan, name)
    ]
    roundings = in_threads(lambda variant: layer_data.round(plan, *variant, plan.repairs), variants, "rounding a layer")
    return dict(zip(variants, roundings, strict=True))


def _planned_bits(inputs: SearchInputs, plan: Plan, name: str) -> int:
    """Bits of a layer's weights under the plan."""
    return inputs.spec.weight_bits(inputs.layers[name], plan.layers[name].weight_bits)


def plan_with(
    inputs: SearchInputs, repaired: RepairedPlan, bits: Mapping[str, int], reasons: Mapping[str, str]
) -> Plan:
    """The plan with the weights of the layers in `bits` rounded to those bits, and with the layers in `reasons` in
    float, each for its reason.
    """
    plan = repaired.plan
    changed = {name: count for name, count in bits.items() if count != _planned_bits(inputs, plan, name)}
    layers = plan.layers | {name: replace(plan.layers[name], weight_bits=count) for name, count in changed.items()}
    rounded = dict(plan.rounded)
    rounded |= {name: repaired.roundings[name, count] for name, count in changed.items() if name in rounded}
    return output_noise.without(replace(plan, layers=layers).with_weights(rounded), reasons)


def build_exact(inputs: SearchInputs, plan: Plan | None, folder: Path, say: Say) -> Artifact:
    """The artifact for a plan, or the float one, in `folder`; raises the error that stopped it."""
    return _build(inputs, inputs.source, plan, inputs.reference, folder, say)


def build_trial(inputs: SearchInputs, plan: Plan, folder: Path, say: Say) -> Artifact:
    """The artifact for a plan that will be measured, however far it is from float; raises the error that stopped it."""
    return _build(inputs, inputs.source, plan, inputs.reference.lenient(), folder, say)


def build_float_of(inputs: SearchInputs, graph: Path, folder: Path, say: Say) -> Artifact:
    """The float artifact of another graph of the same network; raises the error that stopped it."""
    return _build(inputs, replace(inputs.source, graph=graph), None, inputs.reference, folder, say)


def _build(
    inputs: SearchInputs, source: Source, plan: Plan | None, reference: parity.Reference, folder: Path, say: Say
) -> Artifact:
    target = Target(inputs.backend, "int8" if plan else "fp32")
    outcome = build_artifact(target, BuildRequest(source, plan, reference, folder, say, force=True))
    if outcome.artifact is None:
        raise outcome.error or InputError(f"{target} was not made")
    return outcome.artifact
