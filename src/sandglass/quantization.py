"""The search stage: from a source and a budget to the fastest int8 artifact that keeps it, with proof.

Two measures steer. Fidelity, the agreement with the float network on the same images, needs no truths and has little
noise: it ranks and chooses. The task's metric, as a paired change with its interval, decides at the end. A metric on
few images would be a poor guide: what keeps a budget there by chance loses it elsewhere.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandglass import discover, pipeline
from sandglass.artifact import Artifact, load_artifact
from sandglass.benchmarking import Speed, benchmark
from sandglass.card import Card, load_card
from sandglass.errors import BudgetError, DatasetError, InputError
from sandglass.evaluation import Evaluation, evaluate, fidelity
from sandglass.files import atomic_folder, read_json, refuse_existing, write_json
from sandglass.pipeline import Calibration, Say, Target
from sandglass.quantize.plan import Plan
from sandglass.quantize.search import Choice, Cost
from sandglass.workbench import Workbench

ARGUMENTS = "search.json"


@dataclass(frozen=True)
class Request:
    """What a search is asked for. `max_drop` is in points of `metric`, `fidelity` from 0 to 1."""

    target: Target
    max_drop: float
    metric: str
    fidelity: float
    repairs: tuple[str, ...]


@dataclass(frozen=True)
class Quantization:
    """What a search ended with.

    `evaluations` and `speeds` are of the float artifact, of full int8, and of the chosen one; `changes` are the paired
    changes of each metric and `agreements` the fidelity, with intervals, of the latter two; `verdict` is one sentence.
    """

    artifact: Artifact
    plan: Plan
    costs: list[Cost]
    choice: Choice
    evaluations: list[Evaluation]
    agreements: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    speeds: list[Speed]
    integer_share: float
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
    max_drop: float = 0.5,
    metric: str | None = None,
    least_fidelity: float = 0.985,
    repairs: Sequence[str] | None = None,
    best_effort: bool = False,
    force: bool = False,
    say: Say = lambda line: None,
) -> Quantization:
    """Write `out/BACKEND-int8`, the float artifact beside it and `out/plan.json`; see the module's docstring.

    `max_drop` is in points (hundredths) of `metric`, by default the task's first. Raises BudgetError when the budget
    cannot be kept, unless `best_effort`; InputError for a metric that the task lacks or for a search in `out` that was
    begun with other arguments.
    """
    from sandglass.quantize.sensitivity import without

    card = source if isinstance(source, Card) else load_card(source)
    task = discover.load("tasks", card.task)
    wanted = _request(task, target, max_drop, metric, least_fidelity, repairs)
    refuse_existing(out / wanted.target.folder, force)
    _same_arguments(out / ARGUMENTS, _arguments(card, wanted, calibration, evaluation), force)
    for line in shared_images(task, calibration.dataset, evaluation):
        say(f"warning: {line}")
    with pipeline.prepared_source(card, checkpoint, say) as ready:
        bench = Workbench(ready, wanted.target.backend, calibration, wanted.repairs, say)
        scratch = ready.graph.parent
        base, full = bench.make(out, None), bench.make(scratch / "full", bench.plan)
        float_result = evaluate(base, evaluation)
        costs = bench.costs(full, base)

        known: dict[frozenset[str], float] = {}  # a stricter search looks at the same places again

        def steer(reasons: Mapping[str, str]) -> float:
            layers = frozenset(reasons)
            if layers not in known:
                found = bench.simulated(without(bench.plan, reasons), full, evaluation)
                known[layers] = float(fidelity(float_result, found)[task.FIDELITY[0]]["value"])
            return known[layers]

        choice, plan, result, change = _decide(wanted, costs, steer, bench, scratch, evaluation, float_result, say)
        full_result = evaluate(full, evaluation)
        met, verdict = judge(change[wanted.metric], len(evaluation.image_ids), wanted)
        if not met and not best_effort:
            raise BudgetError(verdict, "allow more with --max-drop, or publish the best found with --best-effort")
        plan.save(out / "plan.json")
        with atomic_folder(out / wanted.target.folder, force) as folder:  # the very artifact that was measured
            shutil.copytree(result.artifact.folder, folder, dirs_exist_ok=True)
        artifact = load_artifact(out / wanted.target.folder)
        speeds = benchmark([base, full, artifact])
        share = bench.integer_share(plan)
    agreements = [fidelity(float_result, found.predictions) for found in (full_result, result)]
    changes = [task.paired(float_result.predictions, full_result.predictions, evaluation), change]
    evaluations = [float_result, full_result, result]
    return Quantization(artifact, plan, costs, choice, evaluations, agreements, changes, speeds, share, met, verdict)


def sensitivity(
    source: str | Path | Card,
    target: str,
    *,
    calibration: Calibration,
    checkpoint: Path | None = None,
    repairs: Sequence[str] | None = None,
    say: Say = lambda line: None,
) -> list[Cost]:
    """What each layer that a target runs in int8 costs and gains, in the graph's order."""
    card = source if isinstance(source, Card) else load_card(source)
    wanted = _request(discover.load("tasks", card.task), target, 100.0, None, 0.0, repairs)
    with pipeline.prepared_source(card, checkpoint, say) as ready:
        bench = Workbench(ready, wanted.target.backend, calibration, wanted.repairs, say)
        folder = ready.graph.parent
        return bench.costs(bench.make(folder / "full", bench.plan), bench.make(folder / "base", None))


def judge(change: Mapping[str, float], images: int, wanted: Request) -> tuple[bool, str]:
    """Whether a paired change keeps the budget, and a sentence that says how sure that is."""
    drop, worst = -100 * change["value"], -100 * change["low"]
    told = f"{wanted.metric} drops by {drop:.2f} points (95 %: {-100 * change['high']:.2f} .. {worst:.2f})"
    if worst <= wanted.max_drop:
        return True, f"{told}, within {wanted.max_drop:g}"
    if drop > wanted.max_drop:
        return False, f"{told}, over the budget of {wanted.max_drop:g}"
    needed = images * ((worst - drop) / max(wanted.max_drop - drop, 1e-9)) ** 2
    return True, (
        f"{told}: {images} images are too few to prove {wanted.max_drop:g}; about {needed:.0f} would do. "
        "Fidelity decided"
    )


def shared_images(task: Any, first: Any, second: Any) -> list[str]:
    """A line for images, by their pixels, that both datasets have samples in; none where they are disjoint."""
    ids = [dict.fromkeys(sample.image_id for sample in task.samples(data)) for data in (first, second)]
    hashes = [
        {hashlib.sha256(data.read(i).tobytes()).digest() for i in found}
        for data, found in zip((first, second), ids, strict=True)
    ]
    shared = len(hashes[0] & hashes[1])
    return [f"{shared} images are in the calibration set and in the evaluation set"] if shared else []


def _decide(
    wanted: Request,
    costs: list[Cost],
    steer: Callable[[Mapping[str, str]], float],
    bench: Workbench,
    scratch: Path,
    evaluation: Any,
    base: Evaluation,
    say: Say,
) -> tuple[Choice, Plan, Evaluation, dict[str, Any]]:
    """Search, build, measure; once more with half the loss of fidelity where the metric drops too far all the same."""
    from sandglass.quantize.search import search
    from sandglass.quantize.sensitivity import without

    least = wanted.fidelity
    while True:
        choice = search(costs, steer, least, say)
        final = without(bench.plan, choice.reasons)
        result = evaluate(bench.make(scratch / "candidate", final), evaluation)
        change = bench.task.paired(base.predictions, result.predictions, evaluation)
        if -100 * change[wanted.metric]["value"] <= wanted.max_drop or 1 - least < 0.002:
            return choice, final, result, change
        least = 1 - (1 - least) / 2
        say(f"search: {wanted.metric} drops too far; fidelity is to be {least:.4f} now")


def _request(
    task: Any, target: str, max_drop: float, metric: str | None, least: float, repairs: Sequence[str] | None
) -> Request:
    from sandglass.quantize.repair import REPAIRS

    parsed, chosen = Target.parse(target), metric or task.METRICS[0]
    if parsed.precision != "int8":
        raise InputError(f"{target} is no int8 target", f"give {parsed.backend}:int8")
    if chosen not in task.METRICS:
        raise InputError(f"unknown metric {chosen!r}", f"the task has {', '.join(task.METRICS)}")
    return Request(parsed, max_drop, chosen, least, tuple(REPAIRS if repairs is None else repairs))


def _arguments(card: Card, wanted: Request, calibration: Calibration, evaluation: Any) -> dict[str, Any]:
    return {
        "model": card.name,
        "target": str(wanted.target),
        "max_drop": wanted.max_drop,
        "metric": wanted.metric,
        "fidelity": wanted.fidelity,
        "repairs": list(wanted.repairs),
        "calibration": [calibration.dataset.fingerprint, calibration.size, calibration.method, calibration.seed],
        "evaluation": evaluation.fingerprint,
    }


def _same_arguments(path: Path, given: dict[str, Any], force: bool) -> None:
    """Refuse to go on with a search that was begun with other arguments, naming them."""
    if path.exists() and not force:
        before = read_json(path, DatasetError)
        changed = [name for name, value in given.items() if before.get(name) != value]
        if changed:
            raise InputError(
                f"{path.parent} holds a search that was begun with another {', '.join(changed)}",
                "choose another folder, or begin anew with --force",
            )
    write_json(path, given)
