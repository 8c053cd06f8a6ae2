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
from sandglass.quantization.repairs.output_thresholds import NAME as OUTPUT_THRESHOLDS
from sandglass.quantization.simulate import simulate
from sandglass.quantization.thresholds import AUTO
from sandglass.search.inputs import SearchInputs
from sandglass.search.run import PLANS, TRIALS, Run
from sandglass.sources.source import Source

# Inputs that the plan of a trial is made from, and as many others that it is compared on, at most: they bound the time
# of a trial. `inputs_to_try` takes fewer if the network is large.
TRIAL_INPUTS = 16
FIRST_METHOD = "mse"  # that thresholds are chosen by before a repair chooses them by the outputs of layers
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
    """A plan with some repairs, and its noise at the network's outputs as a share of their power.

    The noise is that on inputs that the plan was not made from.
    """

    repairs: tuple[str, ...]
    noise: float
    plan: Plan


def repairs_without(names: Sequence[str]) -> list[str]:
    """All repairs but those in `names`; raises InputError for a name that is unknown."""
    options = {name.replace(" ", "-"): name for name in REPAIRS}
    if unknown := [name for name in names if name not in options and name not in REPAIRS]:
        raise InputError(f"unknown repair {unknown[0]!r}", f"known: {', '.join(options)}")
    return [name for option, name in options.items() if option not in names and name not in names]


def best_repaired_plan(inputs: SearchInputs, repairs: Sequence[str], run: Run) -> RepairedPlan:
    """The plan with those of `repairs` that leave the least noise, made from all inputs.

    Raises DatasetError without inputs, and PlanError for activations that are not finite.
    """
    method = _method(inputs, repairs)
    best, unequalized = _best_repairs(inputs, repairs, method, run)
    plan, layer_data = repaired_plan(
        inputs.source.graph, inputs.batches, inputs.spec, run.scratch, method, best,
        drawn(inputs.calibration, inputs.range_looks), run.say, unequalized,
    )  # fmt: skip
    run.left.step(PLANS)
    integer = tuple(output_noise.integer_layers(inputs.source.graph, plan, inputs.spec))
    return RepairedPlan(plan, layer_data, integer, _other_roundings(inputs, plan, layer_data, integer))


def _method(inputs: SearchInputs, repairs: Sequence[str]) -> str:
    """The method for the thresholds that no repair chooses."""
    method = inputs.calibration.method
    if method != AUTO:
        return method
    # Thresholds by the layers' outputs replace those of the method nearly everywhere: it is not worth a comparison.
    return FIRST_METHOD if OUTPUT_THRESHOLDS in repairs else automatic_plan(inputs.source.graph, inputs.batches).method


def _best_repairs(
    inputs: SearchInputs, repairs: Sequence[str], method: str, run: Run
) -> tuple[Sequence[str], Plan | None]:
    """The repairs that leave the least noise, and a plan without equalization, None if equalization is not used.

    Equalization helps activations and hurts weights: which weighs more depends on the network and on the bits of the
    weights. The first trial is without it; where its plan clips channels says how far equalization has to go. Plans
    are made from one half of the inputs and compared on the other: on its own inputs every plan has too little noise.
    """
    first, *others = choices(inputs.source.graph, inputs.spec, repairs)
    if not others:
        return first, None
    graph, batches = inputs.source.graph, inputs.batches
    count = inputs_to_try(inputs.total_macs, TRIAL_INPUTS)
    planned, judged = spread(batches[::2], count), spread(batches[1::2] or batches, count)
    expected, measure = output_noise.run(GraphSession(graph), judged), OutputNoise.of(graph)
    run.left.expect(TRIALS, 1 + len(others))

    def trial(names: Sequence[str], unequalized: Plan | None) -> RepairTrial:
        plan, _ = repaired_plan(graph, planned, inputs.spec, run.scratch, method, names, {}, run.say, unequalized)
        session, started = simulate(graph, plan, inputs.spec), time.monotonic()
        noise = measure.noise(expected, output_noise.run(session, judged))
        run.left.measured((time.monotonic() - started) / len(judged))
        run.left.step(TRIALS)
        run.say(f"repair: {', '.join(names) or 'none'}: {output_noise.decibels(noise):.1f} dB at the output")
        return RepairTrial(tuple(names), noise, plan)

    best = plain = trial(first, None)
    for names in others:
        best = quieter(best, trial(names, plain.plan))
    return best.repairs, None if best is plain else plain.plan


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
