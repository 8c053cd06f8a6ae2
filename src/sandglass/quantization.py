"""The search stage: from a source and a budget to the fastest int8 artifact that keeps it, with proof.

Two measures steer. Fidelity, the agreement with the float network on the same images, needs no truths and has little
noise: it ranks and chooses. The task's metric, as a paired change with its interval, decides at the end. A metric on
few images would be a poor guide: what keeps a budget there by chance loses it elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sandglass import discover, host, parity, pipeline
from sandglass.artifact import Artifact
from sandglass.backends import Source
from sandglass.benchmarking import Speed, benchmark
from sandglass.card import Card, load_card
from sandglass.errors import BudgetError, DatasetError, InputError
from sandglass.evaluation import Evaluation, evaluate, fidelity, infer
from sandglass.files import read_json, refuse_existing, write_json
from sandglass.inspection import inspect
from sandglass.journal import Journal
from sandglass.pipeline import Calibration, Say, Target
from sandglass.quantize.plan import Plan
from sandglass.quantize.search import Choice, Cost

SENSITIVITY_SAMPLES = 12
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

    `evaluations` and `speeds` are of the float artifact, of full int8, and of the chosen one; `change` is the paired
    change of each metric, `agreement` the fidelity with its interval, `verdict` one sentence.
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
    from sandglass.graph.load import load_graph
    from sandglass.graph.work import layer_work
    from sandglass.quantize import repair, sensitivity

    card = source if isinstance(source, Card) else load_card(source)
    task = discover.load("tasks", card.task)
    wanted = _request(task, target, max_drop, metric, least_fidelity, repairs)
    refuse_existing(out / wanted.target.folder, force)
    _same_arguments(out / ARGUMENTS, _arguments(card, wanted, calibration, evaluation), force)
    for line in shared_images(task, calibration.dataset, evaluation):
        say(f"warning: {line}")
    backend = discover.load("backends", wanted.target.backend)
    with pipeline.prepared_source(card, checkpoint, say) as ready:
        arrays = pipeline.calibration_arrays(card, calibration)
        reference = parity.Reference(ready, arrays)
        name = next(iter(reference.inputs))
        batches = [{name: array} for array in arrays]
        plan, _ = repair.repaired_plan(
            ready.graph, batches, backend.SPEC, ready.graph.parent, calibration.method, wanted.repairs,
            pipeline.drawn(calibration, arrays), say,
        )  # fmt: skip

        def make(folder: Path, made_plan: Plan | None) -> Artifact:
            precision = "int8" if made_plan else "fp32"
            made = pipeline.build_artifact(
                Target(wanted.target.backend, precision), ready, made_plan, reference, folder, True, say
            )
            if made.artifact is None:
                raise made.error or InputError(f"{folder} was not made")
            return made.artifact

        base, full = make(out, None), make(ready.graph.parent / "full", plan)
        float_result = evaluate(base, evaluation)
        costs = measured_costs(ready, plan, full, base, batches[:SENSITIVITY_SAMPLES], say)
        samples = task.samples(evaluation)

        def steer(reasons: Mapping[str, str]) -> float:
            session = _Simulated(ready.graph, sensitivity.without(plan, reasons), backend.SPEC)
            found = _predictions(task, full, session, evaluation, samples)
            return float(fidelity(float_result, found)[task.FIDELITY[0]]["value"])

        choice, final_plan, result, change = _decide(
            wanted, costs, steer, plan, make, out, evaluation, float_result, say
        )
        full_result = evaluate(full, evaluation)
        met, verdict = judge(change[wanted.metric], len(evaluation.image_ids), wanted)
        agreements = [fidelity(float_result, found.predictions) for found in (full_result, result)]
        speeds = benchmark([base, full, result.artifact])
        work = layer_work(load_graph(ready.graph))
        integer = sensitivity.integer_layers(ready.graph, final_plan, backend.SPEC)
        share = sum(work[n][0] for n in integer if n in work) / max(1, sum(macs for macs, _ in work.values()))
    final_plan.save(out / "plan.json")
    if not met and not best_effort:
        import shutil

        shutil.rmtree(result.artifact.folder)
        raise BudgetError(verdict, "allow more with --max-drop, or publish the best found with --best-effort")
    changes = [task.paired(float_result.predictions, r.predictions, evaluation) for r in (full_result, result)]
    return Quantization(
        result.artifact, final_plan, costs, choice, [float_result, full_result, result], agreements, changes, speeds,
        share, met, verdict,
    )  # fmt: skip


def measured_costs(
    source: Source, plan: Plan, full: Artifact, base: Artifact, batches: Sequence[Mapping[str, np.ndarray]], say: Say
) -> list[Cost]:
    """Noise by simulation and time by the runtime's own clock, of each layer that `full` runs in int8.

    The noises are journaled: a run that was killed goes on where it stopped.
    """
    from sandglass.graph.load import load_graph
    from sandglass.graph.work import layer_work
    from sandglass.quantize import sensitivity

    spec = discover.load("backends", full.backend).SPEC
    layers = sensitivity.integer_layers(source.graph, plan, spec)
    journal = Journal({"noises": plan.sha256, "graph": plan.graph, "backend": full.backend, "samples": len(batches)})
    todo = [name for i, name in enumerate(layers) if i not in journal.done]
    for done, (name, power) in enumerate(sensitivity.noises(source.graph, plan, spec, batches, todo), 1):
        journal.append({layers.index(name): power})
        say(f"sensitivity: {len(layers) - len(todo) + done}/{len(layers)} {name}: {sensitivity.decibels(power):.1f} dB")
    noises = {name: journal.done[i] for i, name in enumerate(layers)}
    journal.close()
    seen = inspect(full, threads=1, against=base)
    integer = {run.name: run.milliseconds or 0.0 for run in seen.runs if run.macs}
    floating, work = seen.float_times(), layer_work(load_graph(source.graph))
    return [
        Cost(name, noises[name], floating.get(name, 0.0), integer.get(name, 0.0), work.get(name, (0, 0))[0])
        for name in layers
    ]


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


class _Simulated:
    """A plan under simulation in the place of an artifact's session."""

    def __init__(self, graph: Path, plan: Plan, spec: Any) -> None:
        from sandglass.quantize.simulate import simulate

        self.session = simulate(graph, plan, spec, threads=1)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; the graph takes one image at a time."""
        return self.session.run(inputs)


def _predictions(task: Any, artifact: Artifact, session: Any, dataset: Any, samples: Sequence[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    for part in infer(task, artifact, session, dataset, samples, workers=host.threads()):
        found |= part
    return [found[sample.index] for sample in samples]


def _decide(
    wanted: Request,
    costs: list[Cost],
    steer: Callable[[Mapping[str, str]], float],
    plan: Plan,
    make: Callable[[Path, Plan | None], Artifact],
    out: Path,
    evaluation: Any,
    base: Evaluation,
    say: Say,
) -> tuple[Choice, Plan, Evaluation, dict[str, Any]]:
    """Search, build, measure; once more with half the loss of fidelity where the metric drops too far all the same."""
    from sandglass.quantize.search import search
    from sandglass.quantize.sensitivity import without

    task, least = discover.load("tasks", base.artifact.card.task), wanted.fidelity
    while True:
        choice = search(costs, steer, least, say)
        final = without(plan, choice.reasons)
        result = evaluate(make(out, final), evaluation)
        change = task.paired(base.predictions, result.predictions, evaluation)
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
