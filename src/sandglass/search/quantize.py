"""The search: from a source and a budget to the fastest int8 artifact that keeps the budget, with proof.

Two measures steer. Fidelity, the agreement with the float network on the same images, needs no truths and has little
noise: it chooses, by simulation, on the calibration images too. Of the choices the fastest is built first, and its
runtime has to reach the same fidelity. The task's metric, as a paired change with its interval, decides where there are
truths. A metric on few images would choose badly: a choice that keeps a budget on them by chance misses it on others.
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
from sandglass.quantization.repaired_plan import REPAIRS
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
from sandglass.search.trials import build_exact, build_trial, full_int8_plan, repairs_without
from sandglass.sources.card import Card
from sandglass.sources.prepare import prepared_source
from sandglass.sources.source import Source
from sandglass.tasks import load_task

GAINS = ("time", "work")  # what int8 saves: time on this machine, or multiply-accumulates
USUAL_CHOICES = 36  # simulated choices of a usual search; the estimate of the time left starts with it


@dataclass(frozen=True)
class Quantization:
    """The result of a search.

    `evaluations` and `speeds` are of the float artifact, of full int8, and of the chosen one; `changes` are the paired
    changes of each metric (empty without truths) and `agreements` the fidelity, with intervals, of the latter two.
    `fidelity` is the acceptance check of the chosen one; `expected_ms` is its time by the time model; `met` says
    whether it keeps the budget, and `verdict` how sure that is, in one sentence.
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
    """Write `out/BACKEND-int8`, the float artifact next to it and its plan; see the module's docstring.

    `source` is a zoo model's name, a card's path, a float artifact's folder or a Card; `ema` takes the averaged weights
    of the checkpoint. The budget: `max_drop` in points (hundredths) of `metric`, by default the task's first;
    `min_fidelity`, 0 to 1, by default the task's own; `min_int8_share` of the multiply-accumulates, 0 to 1, even where
    that makes layers slower. `without` names repairs to leave out. By `gain` int8 saves "time", as `timer` measures it
    on this machine, or "work", its multiply-accumulates: for an artifact that will run on another machine. `processor`
    is the kind of processor that integer sums have to be exact on (see `deploy`).

    Raises BudgetError if the budget cannot be kept, unless `best_effort`; InputError for a metric that the task lacks,
    an unknown repair or a search in `out` that was started with other arguments; BusyError where another run works in
    `out`; the SandglassError of a card, checkpoint, dataset or runtime.
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
        "without": [name for name in REPAIRS if name not in repairs],
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

        inputs = prepare_inputs(ready, int8.backend, calibration)
        repaired = full_int8_plan(inputs, repairs, run)
        base = build_exact(inputs, None, out, run.say)
        full = build_trial(inputs, repaired.plan, run.scratch / "full", run.say)
        float_result = evaluate(base, evaluation)
        layers = measure_layer_costs(inputs, repaired, full, base, run)
        times = measure_cost_model(inputs, repaired, layers, full, base, run)
        model = times if gain == "time" else times.by_work()
        check = prepare_check(inputs, float_result, budget.min_fidelity)
        search = PreparedSearch(inputs, repaired, model, check, budget)
        best = first_within_budget(build_attempts(search, choices_to_build(search, run), run))
        best = _accepted(best, inputs, repaired.integer_layers, budget, best_effort)
        full_result = evaluate(full, evaluation)
        speeds = compare_speeds(search, best, full_result, run)
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
    """What each layer that a target runs in int8 costs and gains when it is rounded alone, in the graph's order.

    The arguments are those of `quantize`. Raises InputError for a target that is not int8 or an unknown repair, and the
    SandglassError of a card, checkpoint, dataset or runtime.
    """
    card = source if isinstance(source, Card) else find_card(source)
    int8, repairs = _int8_target(target), repairs_without(without)
    with prepared_source(card, checkpoint, say, ema=ema) as prepared:
        ready = replace(prepared, processor=processor)
        run = Run.new(ready.graph.parent, say, timer)
        _expect_stages(run, ready)
        inputs = prepare_inputs(ready, int8.backend, calibration)
        repaired = full_int8_plan(inputs, repairs, run)
        # The float artifact comes first: an int8 one is built only where the same runtime's float one agrees.
        base = build_exact(inputs, None, run.scratch / "base", run.say)
        full = build_trial(inputs, repaired.plan, run.scratch / "full", run.say)
        return measure_layer_costs(inputs, repaired, full, base, run)


def _int8_target(text: str) -> Target:
    target = Target.parse(text)
    if target.precision != "int8":
        raise InputError(f"{text} is not an int8 target", f"give {target.backend}:int8")
    return target


def _expect_stages(run: Run, source: Source, samples: int = 0) -> None:
    """Let the time left expect that each layer is rounded alone, and with evaluation `samples` a whole search.

    A search looks at as many choices as usual, each on all images that the fidelity check looks at.
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
    """The best attempt; raises BudgetError if there is none, or if it misses the budget and that is not accepted."""
    if best is None:
        most = f"{inputs.share(integer_layers):.0%} can at most"
        raise BudgetError(
            f"no choice runs {budget.min_int8_share:.0%} of the multiply-accumulates in int8; {most}",
            "ask for less with --min-int8-share, or for --gain work",
        )
    if not best.verdict.met and not best_effort:
        raise BudgetError(
            best.verdict.text, "allow more with --max-drop, or publish the best attempt with --best-effort"
        )
    return best


def _publish(best: Attempt, out: Path, target: Target, replace_old: bool) -> Artifact:
    """Copy the very artifact that was measured to its folder, and write its plan."""
    best.plan.save(plan_path(out, target))
    with atomic_folder(out / target.folder, replace_old) as folder:
        shutil.copytree(best.result.artifact.folder, folder, dirs_exist_ok=True)
    return load_artifact(out / target.folder)
