"""The search stage: from a source and a budget to the fastest int8 artifact that keeps it, with proof.

Two measures steer. Fidelity, the agreement with the float network on the same images, needs no truths and has little
noise: it chooses, by simulation, on the calibration images too. Of what is chosen the fastest is built first, and has
to keep it on the runtime; the task's metric, as a paired change with its interval, decides where there are truths. A
metric on few images would be a poor guide: what keeps a budget there by chance loses it elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.find_card import find_card
from sandglass.artifacts.target import Target
from sandglass.core import discover
from sandglass.core.errors import BackendError, BudgetError, InputError
from sandglass.core.files import atomic_folder
from sandglass.core.processor import ANY, Processor
from sandglass.core.progress import Say, TimeLeft
from sandglass.graph.io import load_graph
from sandglass.graph.work import inputs_to_try, layer_work
from sandglass.measure.benchmarking import Speed, undisturbed
from sandglass.measure.evaluation import Evaluation, evaluate, fidelity, has_truths
from sandglass.quantization.calibration import Calibration, shared_images
from sandglass.quantization.plan import Plan
from sandglass.search.budget import GAINS, Request, arguments, judge, own_search
from sandglass.search.candidates import Choice, reason, search
from sandglass.search.costs import Cost, saved
from sandglass.search.fidelity_check import INPUTS, Gate, Kept
from sandglass.search.timing import Timed
from sandglass.search.workbench import LAYERS, SENSITIVITY_SAMPLES, TIMED, TIMED_SECONDS, TIMES, Workbench
from sandglass.sources.card import Card
from sandglass.sources.prepare import prepared_source
from sandglass.sources.source import Source

ATTEMPTS = 12
CHOICES, SPEEDS = "choices", "speeds"  # stages
USUAL_CHOICES = 36
CREDITS = (0.0, 0.25, 0.5, 1.0)  # for multiply-accumulates in int8, where so many have to be
OUT_OF_QUESTION = -1.0  # as a fidelity
NEAR = 0.001  # of fidelity: what a runtime may have more than the simulation, or less
NOTABLY = 0.97  # times what is chosen takes: full int8 is faster, not by the noise of timing


@dataclass(frozen=True)
class Quantization:
    """What a search ended with.

    `evaluations` and `speeds` are of the float artifact, of full int8, and of the chosen one; `changes` are the paired
    changes of each metric (empty without truths) and `agreements` the fidelity, with intervals, of the latter two;
    `kept` is that of the chosen one as the gate saw it; `expected_ms` is what the costs add up to; `verdict` is one
    sentence.
    """

    artifact: Artifact
    plan: Plan
    costs: list[Cost]
    choice: Choice
    evaluations: list[Evaluation]
    agreements: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    speeds: list[Speed]
    expected_ms: float
    integer_share: float
    kept: Kept
    met: bool
    verdict: str


def quantize(
    source: str | Path | Card,
    target: str,
    out: Path,
    *,
    calibration: Calibration,
    evaluation: Any,
    checkpoint: Path | None = None,
    ema: bool = False,
    max_drop: float = 0.5,
    metric: str | None = None,
    least_fidelity: float | None = None,
    repairs: Sequence[str] | None = None,
    gain: str = GAINS[0],
    least_share: float = 0.0,
    processor: Processor = ANY,
    best_effort: bool = False,
    force: bool = False,
    say: Say = lambda line: None,
) -> Quantization:
    """Write `out/BACKEND-int8`, the float artifact beside it and `out/plan.json`; see the module's docstring.

    `max_drop` is in points (hundredths) of `metric`, by default the task's first. By `gain` a layer in int8 saves
    "time" as it is measured on this machine, or "work", its multiply-accumulates: for an artifact that will run on
    another one. `least_share` of all multiply-accumulates run in int8, or more, also in layers that it makes slower.
    `processor` is the kind of processor that integer sums have to be exact on (see `pipeline.deploy`).
    `least_fidelity` is by default what the task names. Raises BudgetError when the budget
    cannot be kept, unless `best_effort`; InputError for a metric that the task lacks or for a search in `out` that was
    begun with other arguments; BusyError where another run works in `out`.
    """
    card = source if isinstance(source, Card) else find_card(source)
    task = discover.load("tasks", card.task)
    least = task.LEAST_FIDELITY if least_fidelity is None else least_fidelity
    wanted = _request(task, target, max_drop, metric, least, repairs, gain, least_share, processor)
    given = arguments(card, wanted, calibration, evaluation)
    for line in shared_images(task, calibration.dataset, evaluation):
        say(f"warning: {line}")
    with (
        own_search(out, wanted.target, given, force) as replace_old,
        prepared_source(card, checkpoint, say, ema=ema) as graph,
    ):
        ready = replace(graph, processor=wanted.processor)
        bench = Workbench(ready, wanted.target.backend, calibration, wanted.repairs, say, _ahead(ready, evaluation))
        say, scratch = bench.say, ready.graph.parent
        base, full = bench.make(out, None), bench.tried(scratch / "full", bench.plan)
        float_result = evaluate(base, evaluation)
        timed = bench.timed(scratch, bench.costs(scratch, full, base), full, base)
        gate = Gate(bench, float_result, least)
        best = _decide(wanted, timed if gain == GAINS[0] else timed.by_work(), gate, scratch, say)
        full_result = evaluate(full, evaluation)
        if not best.met and not best_effort:
            raise BudgetError(best.verdict, "allow more with --max-drop, or publish the best found with --best-effort")
        best, speeds = _fastest(wanted, timed, gate, best, full_result, say)
        best.plan.save(out / "plan.json")
        with atomic_folder(out / wanted.target.folder, replace_old) as folder:  # the very artifact that was measured
            shutil.copytree(best.result.artifact.folder, folder, dirs_exist_ok=True)
        artifact = load_artifact(out / wanted.target.folder)
        share = bench.share(best.choice.bits)
    agreements = [fidelity(float_result, found.predictions) for found in (full_result, best.result)]
    changes = [_change(task, float_result, full_result), best.change]
    evaluations = [float_result, full_result, best.result]
    expected = speeds[0].median * (1 - _saved(timed, best.choice.bits) / timed.milliseconds)
    return Quantization(
        artifact,
        best.plan,
        timed.costs,
        best.choice,
        evaluations,
        agreements,
        changes,
        speeds,
        expected,
        share,
        best.kept,
        best.met,
        best.verdict,
    )


def sensitivity(
    source: str | Path | Card,
    target: str,
    *,
    calibration: Calibration,
    checkpoint: Path | None = None,
    ema: bool = False,
    repairs: Sequence[str] | None = None,
    processor: Processor = ANY,
    say: Say = lambda line: None,
) -> list[Cost]:
    """What each layer that a target runs in int8 costs and gains, in the graph's order."""
    card = source if isinstance(source, Card) else find_card(source)
    wanted = _request(discover.load("tasks", card.task), target, 100.0, None, 0.0, repairs)
    with prepared_source(card, checkpoint, say, ema=ema) as graph:
        ready = replace(graph, processor=processor)
        bench = Workbench(ready, wanted.target.backend, calibration, wanted.repairs, say, _ahead(ready))
        folder = ready.graph.parent
        base = bench.make(folder / "base", None)  # first: what is rounded needs it to be right
        return bench.costs(folder, bench.tried(folder / "full", bench.plan), base)


def _ahead(ready: Source, evaluation: Any = None) -> TimeLeft:
    """What rounding each layer alone will take, and where there are evaluation images a search.

    That looks at as many choices as there usually are, each on all images that the gate looks at.
    """
    left, work = TimeLeft(), layer_work(load_graph(ready.graph))
    macs = sum(macs for macs, _ in work.values())
    left.expect(LAYERS, len(work), runs=inputs_to_try(macs, SENSITIVITY_SAMPLES))
    if evaluation is not None:
        samples = len(discover.load("tasks", ready.card.task).samples(evaluation))
        left.expect(TIMES, 1, seconds=(TIMED + 1) * TIMED_SECONDS)
        left.expect(CHOICES, USUAL_CHOICES, runs=samples + inputs_to_try(macs, INPUTS))
        left.expect(SPEEDS, 1, seconds=4 * TIMED_SECONDS)
    return left


@dataclass(frozen=True)
class _Candidate:
    """A choice that was built, and whether it keeps the budget."""

    choice: Choice
    plan: Plan
    result: Evaluation
    change: dict[str, Any]
    kept: Kept
    met: bool
    verdict: str


def _decide(wanted: Request, timed: Timed, gate: Gate, scratch: Path, say: Say) -> _Candidate:
    """The fastest choice that keeps the budget when it is built, else the built one of the highest fidelity."""
    bench, base = gate.bench, gate.base

    @cache
    def simulated(bits: tuple[tuple[str, int], ...]) -> float:
        rest = {name: "given back" for name in bench.integer_layers if name not in dict(bits)}
        kept = gate.simulated(bench.planned(dict(bits), rest)).least
        bench.left.step(CHOICES)
        return kept

    def steer(bits: Mapping[str, int]) -> float:
        return simulated(tuple(bits.items())) if bench.share(bits) >= wanted.share else OUT_OF_QUESTION

    def choices() -> Iterator[Choice]:
        for credit in CREDITS if wanted.share else CREDITS[:1]:
            credited = timed.crediting(credit)
            if credit:
                say(f"search: int8 is worth {credit:.0%} of the mean time of so much work besides")
            found = search(credited.costs, credited.crossings, steer, wanted.fidelity, say, NEAR)
            yield from (_uncredited(choice, timed) for choice in found if choice.fidelity >= 0)

    tried: list[_Candidate] = []
    failure: BackendError | None = None
    for number, choice in enumerate(islice(choices(), ATTEMPTS)):
        final = bench.planned(choice.bits, choice.reasons)
        try:
            result = evaluate(bench.tried(scratch / f"candidate{number}", final), base.dataset)
        except BackendError as error:  # of the runtime, which may take another choice
            failure = error
            continue
        tried.append(_judged(wanted, gate, choice, final, result))
        say(f"search: built with {len(choice.bits)} layers in int8: {tried[-1].verdict}")
        if tried[-1].met:
            return tried[-1]
    if not tried and failure is not None:
        raise failure
    if not tried:
        told = f"no choice runs {wanted.share:.0%} of the multiply-accumulates in int8"
        most = f"{bench.share(bench.integer_layers):.0%} can at most"
        raise BudgetError(f"{told}; {most}", "ask for less with --least-int8, or for --gain work")
    return max(tried, key=lambda candidate: candidate.kept.least)


def _saved(timed: Timed, bits: Mapping[str, int]) -> float:
    """Milliseconds that layers with so many bits save over all in float."""
    chosen = {cost.name: way for cost in timed.costs for way in cost.ways if way.bits == bits.get(cost.name)}
    return saved(timed.costs, timed.crossings, chosen)


def _uncredited(choice: Choice, timed: Timed) -> Choice:
    """A choice with the times that were measured."""
    reasons = {cost.name: reason(cost) for cost in timed.costs if cost.name in choice.reasons}
    return replace(choice, reasons=reasons, saved=_saved(timed, choice.bits))


def _fastest(
    wanted: Request, timed: Timed, gate: Gate, best: _Candidate, full: Evaluation, say: Say
) -> tuple[_Candidate, list[Speed]]:
    """What was chosen, or full int8 where that keeps the budget too and is faster after all.

    With it the speeds of the float artifact, of full int8, and of what is returned.
    """
    gate.bench.left.end(CHOICES)
    speeds = undisturbed([gate.base.artifact, full.artifact, best.result.artifact], seconds=TIMED_SECONDS, say=say)
    gate.bench.left.step(SPEEDS)
    if wanted.gain != GAINS[0] or speeds[1].median >= NOTABLY * speeds[2].median:
        return best, speeds
    plan, bits = gate.bench.plan, {cost.name: cost.ways[0].bits for cost in timed.costs}
    noise = sum(cost.ways[0].noise for cost in timed.costs)
    choice = Choice(bits, {}, gate.simulated(plan).least, noise, _saved(timed, bits))
    whole = _judged(wanted, gate, choice, plan, full)
    say(f"search: full int8 is faster after all: {whole.verdict}")
    return (whole, [*speeds[:2], speeds[1]]) if whole.met else (best, speeds)


def _judged(wanted: Request, gate: Gate, choice: Choice, plan: Plan, result: Evaluation) -> _Candidate:
    """A choice that was built and evaluated, against the budget."""
    base = gate.base
    change, kept = _change(gate.bench.task, base, result), gate.built(result)
    met, told = judge(change.get(wanted.metric), kept, len(base.dataset.image_ids), wanted)
    return _Candidate(choice, plan, result, change, kept, met, told)


def _change(task: Any, base: Evaluation, result: Evaluation) -> dict[str, Any]:
    """The paired change of each metric; empty where the dataset has no truths."""
    if not has_truths(task, base.metrics):
        return {}
    return dict(task.paired(base.predictions, result.predictions, base.dataset))


def _request(
    task: Any,
    target: str,
    max_drop: float,
    metric: str | None,
    least: float,
    repairs: Sequence[str] | None,
    gain: str = GAINS[0],
    share: float = 0.0,
    processor: Processor = ANY,
) -> Request:
    from sandglass.quantization.repaired_plan import REPAIRS

    parsed, chosen = Target.parse(target), metric or task.METRICS[0]
    if parsed.precision != "int8":
        raise InputError(f"{target} is no int8 target", f"give {parsed.backend}:int8")
    if chosen not in task.METRICS:
        raise InputError(f"unknown metric {chosen!r}", f"the task has {', '.join(task.METRICS)}")
    if gain not in GAINS:
        raise InputError(f"unknown gain {gain!r}", f"known: {', '.join(GAINS)}")
    used = tuple(REPAIRS if repairs is None else repairs)
    return Request(parsed, max_drop, chosen, least, used, gain, share, processor)
