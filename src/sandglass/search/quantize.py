"""The search: from a source and a budget to the fastest int8 artifact that keeps the budget, proved by measurements.

Two measures guide it. Fidelity, the agreement with the float network on the same images, needs no labels and has little
statistical noise. It selects choices by simulation, also on the calibration images. The fastest sufficient choice is
built first, and it has to reach the same fidelity on its runtime. The task's metric, as a paired change with its
interval, decides at the end if the dataset has labels. It would be a bad guide for the selection: a choice that keeps
the budget on a few images by chance misses it on others.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.find_card import find_card
from sandglass.artifacts.plan_file import plan_path
from sandglass.artifacts.target import Target
from sandglass.core.errors import BudgetError, InputError
from sandglass.core.files import atomic_folder
from sandglass.core.processor import ANY, Processor
from sandglass.core.progress import Say
from sandglass.datasets import Dataset
from sandglass.graph.io import load_graph
from sandglass.graph.work import inputs_to_try, layer_work
from sandglass.measure.benchmarking import Speed
from sandglass.measure.evaluation import Evaluation, evaluate, fidelity
from sandglass.metrics import Change, Interval
from sandglass.quantization.calibration import Calibration, shared_images
from sandglass.quantization.plan import Plan
from sandglass.search.attempts import (
    Attempt,
    PreparedSearch,
    attempt_of_full,
    build_attempts,
    choices_to_build,
    compare_speeds,
    first_within_budget,
    is_full_faster,
    paired_change,
)
from sandglass.search.budget import Budget
from sandglass.search.candidates import Choice
from sandglass.search.costs import LayerCost
from sandglass.search.fidelity_check import INPUTS, FidelityResult, prepare_check
from sandglass.search.inputs import SearchInputs, prepare_inputs
from sandglass.search.layer_costs import SENSITIVITY_SAMPLES, measure_layer_costs
from sandglass.search.output_folder import claimed_folder
from sandglass.search.run import CHOICES, LAYERS, SPEEDS, TIMES, Run
from sandglass.search.time_trials import TIMED_ARTIFACTS, measure_cost_model
from sandglass.search.timer import CLOCK, Timer
from sandglass.search.trials import build_exact, build_trial, full_int8_plan, repairs_without, with_variants
from sandglass.sources.card import Card
from sandglass.sources.prepare import prepared_source
from sandglass.sources.source import Source
from sandglass.tasks import load_task

GAINS = ("time", "work")  # the saving to maximize: time on this machine, or multiply-accumulates in float
USUAL_CHOICES = 36  # choices that a typical search simulates, with which the estimate of the time left starts


@dataclass(frozen=True)
class Quantization:
    """The result of a search.

    artifact, plan  the chosen artifact and its plan
    costs           noise and times of each layer
    choice          the layers in int8, and the reasons for float
    evaluations     of the float artifact, of full int8, and of the chosen artifact
    agreements      fidelity with intervals, of full int8 and of the chosen artifact
    changes         paired change of each metric, of full int8 and of the chosen artifact; empty without labels
    speeds          of the float artifact, of full int8, and of the chosen artifact
    expected_ms     milliseconds of the chosen artifact by the time model
    integer_share   share of the multiply-accumulates in int8, 0 to 1
    fidelity        the acceptance check of the chosen artifact
    met, verdict    whether it keeps the budget, and one sentence that explains this and its certainty
    """

    artifact: Artifact
    plan: Plan
    costs: tuple[LayerCost, ...]
    choice: Choice
    evaluations: list[Evaluation]
    agreements: list[dict[str, Interval]]
    changes: list[dict[str, Change]]
    speeds: list[Speed]
    expected_ms: float
    integer_share: float
    fidelity: FidelityResult
    met: bool
    verdict: str


def quantize(
    source: str | Path | Card,
    target: str,
    out: Path,
    *,
    calibration: Calibration,
    evaluation: Dataset,
    checkpoint: Path | None = None,
    ema: bool = False,
    max_drop: float = 0.5,
    metric: str | None = None,
    min_fidelity: float | None = None,
    min_int8_share: float = 0.0,
    without: Sequence[str] = (),
    gain: str = GAINS[0],
    processor: Processor = ANY,
    best_effort: bool = False,
    force: bool = False,
    timer: Timer = CLOCK,
    say: Say = lambda line: None,
) -> Quantization:
    """Search the fastest int8 artifact within a budget; see the module's docstring.

    Writes `out/BACKEND-int8`, its plan, and the float artifact next to it. A search that was killed continues if it is
    started with the same arguments.

    source          name of a zoo model, path of a card, folder of a float artifact, or a Card
    target          for example "onnxruntime:int8"
    calibration     the samples on which activation ranges are measured
    evaluation      the dataset on which metric and fidelity are measured
    checkpoint      weights in place of the card's; `ema` takes the averaged weights in it
    max_drop        largest drop of `metric` in points (hundredths); the default metric is the first one of the task
    min_fidelity    smallest agreement with the float network, 0 to 1; the default is that of the task
    min_int8_share  smallest share of the multiply-accumulates in int8, 0 to 1, even where that makes layers slower
    without         names of repairs to leave out
    gain            "time": int8 saves milliseconds, measured by `timer` on this machine; "work": it saves
                    multiply-accumulates, for an artifact that will run on another machine
    processor       the kind of processor on which integer sums have to be exact (see `deploy`)
    best_effort     publish the best attempt if none keeps the budget
    force           replace existing artifacts, and start again in a folder with another search

    Raises BudgetError if no attempt keeps the budget, unless `best_effort` is true. Raises InputError for an unknown
    metric or repair, or a search in `out` with other arguments; BusyError if another run works in `out`; and the
    SandglassError of the card, checkpoint, dataset or runtime.
    """
    card = source if isinstance(source, Card) else find_card(source)
    task, int8 = load_task(card.task), _int8_target(target)
    budget = Budget.of_task(task, max_drop, metric, min_fidelity, min_int8_share)
    repairs = repairs_without(without)
    if gain not in GAINS:
        raise InputError(f"unknown gain {gain!r}", f"known: {', '.join(GAINS)}")
    arguments = {
        "model": card.name,
        "target": str(int8),
        **asdict(budget),
        "repairs": repairs,
        "gain": gain,
        "processor": processor.name,
        "calibration": [calibration.dataset.fingerprint, calibration.size, calibration.method, calibration.seed],
        "evaluation": evaluation.fingerprint,
    }
    for line in shared_images(task, calibration.dataset, evaluation):
        say(f"warning: {line}")
    with (
        claimed_folder(out, int8, arguments, force) as replace_old,
        prepared_source(card, checkpoint, say, ema=ema) as prepared,
    ):
        ready = replace(prepared, processor=processor)
        run = Run.new(ready.graph.parent, say, timer)
        _expect_stages(run, ready, len(task.samples(evaluation)))

        # The plan: ranges from the calibration set, and the repairs with the least noise.
        inputs = prepare_inputs(ready, int8.backend, calibration)
        repaired = with_variants(inputs, full_int8_plan(inputs, repairs, run))
        # The costs: noise of each layer by simulation; times of layers and conversions, fitted to whole runs.
        base = build_exact(inputs, None, out, run.say)
        full = build_trial(inputs, repaired.plan, run.scratch / "full", run.say)
        float_result = evaluate(base, evaluation)
        layers = measure_layer_costs(inputs, repaired, full, base, run)
        times = measure_cost_model(inputs, repaired, layers, full, base, run)
        model = times if gain == "time" else times.by_work()
        # The choice: candidates at rising prices of noise, until one keeps the budget on its runtime.
        check = prepare_check(inputs, float_result, budget.min_fidelity)
        search = PreparedSearch(inputs, repaired, model, check, budget)
        best = first_within_budget(build_attempts(search, choices_to_build(search, run), run))
        best = _accepted(best, inputs, repaired.integer_layers, budget, best_effort)
        full_result = evaluate(full, evaluation)
        speeds = compare_speeds(search, best, full_result, run)
        # The time model may be wrong: if full int8 is faster and keeps the budget, it replaces the choice.
        if gain == "time" and is_full_faster(speeds):
            whole = attempt_of_full(search, times, full_result, run)
            best, speeds = (whole, [*speeds[:2], speeds[1]]) if whole.verdict.met else (best, speeds)
        artifact = _publish(best, out, int8, replace_old)
    saved_share = times.saved_ms(times.assignment(best.choice.bits)) / times.float_ms
    return Quantization(
        artifact,
        best.plan,
        times.layers,
        best.choice,
        [float_result, full_result, best.result],
        [fidelity(float_result, result.predictions) for result in (full_result, best.result)],
        [paired_change(inputs, float_result, full_result), best.change],
        speeds,
        speeds[0].median * (1 - saved_share),
        inputs.share(best.choice.bits),
        best.fidelity,
        best.verdict.met,
        best.verdict.text,
    )


def sensitivity(
    source: str | Path | Card,
    target: str,
    *,
    calibration: Calibration,
    checkpoint: Path | None = None,
    ema: bool = False,
    without: Sequence[str] = (),
    processor: Processor = ANY,
    timer: Timer = CLOCK,
    say: Say = lambda line: None,
) -> list[LayerCost]:
    """The noise and the times of each layer when it alone runs in int8, in the graph's order.

    The arguments are those of `quantize`. Raises InputError for a target that is not int8 or an unknown repair, and the
    SandglassError of the card, checkpoint, dataset or runtime.
    """
    card = source if isinstance(source, Card) else find_card(source)
    int8, repairs = _int8_target(target), repairs_without(without)
    with prepared_source(card, checkpoint, say, ema=ema) as prepared:
        ready = replace(prepared, processor=processor)
        run = Run.new(ready.graph.parent, say, timer)
        _expect_stages(run, ready)
        inputs = prepare_inputs(ready, int8.backend, calibration)
        repaired = with_variants(inputs, full_int8_plan(inputs, repairs, run))
        # The float artifact comes first: if it does not agree with the graph, int8 on that runtime makes no sense.
        base = build_exact(inputs, None, run.scratch / "base", run.say)
        full = build_trial(inputs, repaired.plan, run.scratch / "full", run.say)
        return measure_layer_costs(inputs, repaired, full, base, run)


def _int8_target(text: str) -> Target:
    target = Target.parse(text)
    if target.precision != "int8":
        raise InputError(f"{text} is not an int8 target", f"give {target.backend}:int8")
    return target


def _expect_stages(run: Run, source: Source, samples: int = 0) -> None:
    """Tell the estimate of the time left how many simulations and measurements follow.

    Each layer is simulated alone. With evaluation `samples` a whole search follows: USUAL_CHOICES simulations on all
    images of the fidelity check.
    """
    left, work = run.left, layer_work(load_graph(source.graph))
    macs = sum(macs for macs, _ in work.values())
    left.expect(LAYERS, len(work), runs=inputs_to_try(macs, SENSITIVITY_SAMPLES))
    if samples:
        left.expect(TIMES, 1, seconds=(TIMED_ARTIFACTS + 1) * run.timer.seconds)
        left.expect(CHOICES, USUAL_CHOICES, runs=samples + inputs_to_try(macs, INPUTS))
        left.expect(SPEEDS, 1, seconds=4 * run.timer.seconds)


def _accepted(
    best: Attempt | None, inputs: SearchInputs, integer_layers: Sequence[str], budget: Budget, best_effort: bool
) -> Attempt:
    """The best attempt. Raises BudgetError if there is none, or if it misses the budget without `best_effort`."""
    if best is None:
        most = f"the most is {inputs.share(integer_layers):.0%}"
        raise BudgetError(
            f"no choice runs {budget.min_int8_share:.0%} of the multiply-accumulates in int8; {most}",
            "use a smaller --min-int8-share, or --gain work",
        )
    if not best.verdict.met and not best_effort:
        raise BudgetError(
            best.verdict.text, "allow a larger --max-drop, or publish the best attempt with --best-effort"
        )
    return best


def _publish(best: Attempt, out: Path, target: Target, replace_old: bool) -> Artifact:
    """Copy the artifact that was measured to its folder, and write its plan."""
    best.plan.save(plan_path(out, target))
    with atomic_folder(out / target.folder, replace_old) as folder:
        shutil.copytree(best.result.artifact.folder, folder, dirs_exist_ok=True)
    return load_artifact(out / target.folder)
