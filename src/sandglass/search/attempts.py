"""Attempts: choices are simulated at rising prices of noise, built if their fidelity suffices, and checked.

The first attempt that keeps the budget wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

from sandglass.core.errors import BackendError
from sandglass.measure.benchmarking import Speed
from sandglass.measure.evaluation import Evaluation, evaluate, has_truths
from sandglass.metrics import Change
from sandglass.quantization.plan import Plan
from sandglass.search.budget import Budget, Verdict, check_budget
from sandglass.search.candidates import Choice, assignments, choice_of, float_reason, worth_building
from sandglass.search.costs import CostModel
from sandglass.search.fidelity_check import FidelityCheck, FidelityResult, check_artifact, check_plan
from sandglass.search.inputs import SearchInputs
from sandglass.search.run import CHOICES, SPEEDS, Run
from sandglass.search.trials import RepairedPlan, build_trial, plan_with

# Choices that are built, at most. It bounds the time of a search if the simulation differs from the runtime: the steps
# between choices double, so that 12 of them reach the quietest one.
ATTEMPTS = 12
# Bonuses for int8, for a minimum share of int8: a layer in int8 counts as saving this share of the average time of its
# work in float, in addition to the time that it really saves. They are tried in this order until a choice reaches the
# requested share. With 1 a layer stays in float only if int8 costs it more than float takes on average. Finer steps may
# find faster choices, but each step takes a series of simulations.
BONUSES = (0.0, 0.25, 0.5, 1.0)
# Difference of fidelity between a runtime and the simulation that is tolerated: a choice that falls short by up to this
# is built too. It bounds the attempts with such choices. Not measured on several networks.
NEAR = 0.001
# Share of the chosen artifact's time below which full int8 counts as faster. It bounds the time that the choice may
# lose to full int8, and prevents a decision by the noise of the clock.
NOTABLY = 0.97


@dataclass(frozen=True)
class PreparedSearch:
    """The data of a search with which choices are made, built and checked; `model` holds the costs of the choices."""

    inputs: SearchInputs
    repaired: RepairedPlan
    model: CostModel
    check: FidelityCheck
    budget: Budget


@dataclass(frozen=True)
class Attempt:
    """A choice that was built, its evaluation, and the verdict on it.

    `change` is the paired change of each metric against float; it is empty if the dataset has no labels.
    """

    choice: Choice
    plan: Plan
    result: Evaluation
    change: dict[str, Change]  # by metric
    fidelity: FidelityResult
    verdict: Verdict


def choices_to_build(search: PreparedSearch, run: Run) -> Iterator[Choice]:
    """Different choices with enough fidelity by simulation, the fastest first.

    This is a generator: a choice is simulated when the caller reads it.
    """
    layers, budget = search.repaired.integer_layers, search.budget
    yielded = list[dict[str, int]]()

    @cache
    def fidelity(bits: tuple[tuple[str, int], ...]) -> float:
        rest = {name: "given back" for name in layers if name not in dict(bits)}
        result = check_plan(search.check, plan_with(search.inputs, search.repaired, dict(bits), rest))
        run.left.step(CHOICES)
        return result.lowest

    def simulated(model: CostModel) -> Iterator[Choice]:
        for assignment in assignments(model):
            bits = tuple((name, variant.bits) for name, variant in assignment.items())
            if search.inputs.share(dict(bits)) >= budget.min_int8_share:
                choice = choice_of(model, assignment, fidelity(bits))
                run.say(_choice_line(model, choice))
                yield choice

    for bonus in BONUSES if budget.min_int8_share else BONUSES[:1]:
        if bonus:
            run.say(f"search: adding a bonus for int8, {bonus:.0%} of the average time of a layer's work in float")
        for choice in worth_building(simulated(search.model.with_bonus(bonus)), budget.min_fidelity, NEAR):
            if choice.bits not in yielded:
                yielded.append(choice.bits)
                yield _without_bonus(search.model, choice)


def _choice_line(model: CostModel, choice: Choice) -> str:
    return (
        f"search: {len(choice.bits)} of {len(model.layers)} layers in int8 ({model.share(choice.bits):.0%} of their "
        f"multiply-accumulates), {choice.saved_ms:.2f} ms saved: fidelity {choice.fidelity:.4f}"
    )


def _without_bonus(model: CostModel, choice: Choice) -> Choice:
    """A choice with the times of `model`, which have no bonus."""
    reasons = {layer.name: float_reason(layer) for layer in model.layers if layer.name in choice.reasons}
    return replace(choice, reasons=reasons, saved_ms=model.saved_ms(model.assignment(choice.bits)))


def build_attempts(search: PreparedSearch, choices: Iterable[Choice], run: Run) -> Iterator[Attempt | BackendError]:
    """Builds and checks the first ATTEMPTS choices; yields the error instead if the runtime refuses a choice."""
    for number, choice in enumerate(islice(choices, ATTEMPTS)):
        plan = plan_with(search.inputs, search.repaired, choice.bits, choice.reasons)
        try:
            artifact = build_trial(search.inputs, plan, run.scratch / f"candidate{number}", run.say)
            result = evaluate(artifact, search.check.base.dataset)
        except BackendError as error:  # the runtime may accept another choice
            yield error
            continue
        attempt = checked(search, choice, plan, result)
        run.say(f"search: built with {len(choice.bits)} layers in int8: {attempt.verdict.text}")
        yield attempt


def first_within_budget(attempts: Iterable[Attempt | BackendError]) -> Attempt | None:
    """The first attempt that keeps the budget, or else the one with the highest fidelity; None without attempts.

    Attempts after the first that keeps the budget are not read. Raises the last BackendError if all choices failed.
    """
    best: Attempt | None = None
    failure: BackendError | None = None
    for attempt in attempts:
        if isinstance(attempt, BackendError):
            failure = attempt
            continue
        if attempt.verdict.met:
            return attempt
        if best is None or attempt.fidelity.lowest > best.fidelity.lowest:
            best = attempt
    if best is None and failure is not None:
        raise failure
    return best


def checked(search: PreparedSearch, choice: Choice, plan: Plan, result: Evaluation) -> Attempt:
    """The attempt of a choice that was built and evaluated, with the verdict by the budget."""
    base = search.check.base
    change, fidelity = paired_change(search.inputs, base, result), check_artifact(search.check, result)
    verdict = check_budget(change.get(search.budget.metric), fidelity, len(base.dataset.image_ids), search.budget)
    return Attempt(choice, plan, result, change, fidelity, verdict)


def paired_change(inputs: SearchInputs, base: Evaluation, result: Evaluation) -> dict[str, Change]:
    """The paired change of each metric; empty if the dataset has no labels."""
    if not has_truths(inputs.task, base.metrics):
        return {}
    return dict(inputs.task.paired(base.predictions, result.predictions, base.dataset))


def compare_speeds(search: PreparedSearch, best: Attempt, full: Evaluation, run: Run) -> list[Speed]:
    """Speeds of the float artifact, of full int8, and of the best attempt."""
    run.left.end(CHOICES)
    speeds = run.timer.whole_runs([search.check.base.artifact, full.artifact, best.result.artifact], run.say)
    run.left.step(SPEEDS)
    return speeds


def is_full_faster(speeds: Sequence[Speed]) -> bool:
    """Whether full int8 is faster than the chosen artifact, by more than the noise of the clock."""
    _, full, chosen = speeds
    return full.median < NOTABLY * chosen.median


def attempt_of_full(search: PreparedSearch, times: CostModel, full: Evaluation, run: Run) -> Attempt:
    """Full int8 as an attempt: all layers in their first variant, with the costs of `times`."""
    plan = search.repaired.plan
    assignment = {layer.name: layer.variants[0] for layer in times.layers}
    attempt = checked(search, choice_of(times, assignment, check_plan(search.check, plan).lowest), plan, full)
    run.say(f"search: full int8 is faster than the choice: {attempt.verdict.text}")
    return attempt
