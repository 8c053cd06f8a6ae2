"""`sandglass evaluate` measures accuracy; `sandglass benchmark` measures latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from sandglass.cli.inputs import load_artifacts, load_samples
from sandglass.cli.options import ArtifactPath, Output, RunOptions, Samples
from sandglass.cli.output import Progress, show, write_result
from sandglass.cli.values import DATASET, FILE, SECONDS, DatasetName
from sandglass.core.errors import InputError, SandglassError

if TYPE_CHECKING:
    from sandglass.artifacts.artifact import Artifact
    from sandglass.measure.benchmarking import Speed
    from sandglass.measure.evaluation import Evaluation
    from sandglass.table.markdown import Row

Measured = TypeVar("Measured")


def evaluate(
    *artifacts: ArtifactPath,
    dataset: Annotated[DatasetName, DATASET],
    samples: Samples = Samples(),
    flip_test: Annotated[bool | None, Parameter(negative="--no-flip-test")] = None,
    run: RunOptions = RunOptions(),
    speed: bool = False,
    results: Annotated[Path | None, FILE] = None,
    output: Output = Output(),
) -> int:
    """Measure the accuracy of artifacts on a dataset, with the metrics of the task.

    To continue after an interruption, run the same command again.

    Parameters
    ----------
    dataset
        format of the dataset, or the name of an embedded dataset
    flip_test
        average the outputs for each image and its mirror image (default: as the card says)
    speed
        also measure the speed, with the same threads and batch
    results
        file for the predictions of a single artifact, in COCO's result format (default: none)
    """
    from sandglass.measure import evaluation
    from sandglass.table.rows import evaluation_rows, protocol_text

    loaded = load_artifacts(artifacts)
    _check(loaded, dataset, results)
    data = load_samples(dataset, samples)
    outcomes = evaluation.evaluate_each(
        loaded,
        lambda artifact: evaluation.evaluate(
            artifact,
            data,
            threads=run.threads,
            batch=run.batch,
            flip_test=flip_test,
            progress=Progress(f"evaluate {artifact.folder}", "samples"),
        ),
    )
    evaluations, failures = _successes(outcomes), _failures(loaded, outcomes)
    timed = _speeds([result.artifact for result in evaluations], run) if speed else []
    failures += _failures([result.artifact for result in evaluations], timed)
    speeds = [[] if isinstance(entry, SandglassError) else entry for entry in timed]
    changes = evaluation.changes(evaluations)
    show(output, [*evaluation_rows(evaluations, changes, speeds), *failures], protocol_text(evaluations[0].protocol))
    if results:
        _write_coco(results, evaluations[0])
    write_result(output, [*_to_dicts(evaluations, changes, speeds), *failures])
    return 2 if failures else 0


def benchmark(
    *artifacts: ArtifactPath,
    run: RunOptions = RunOptions(),
    seconds: Annotated[float, SECONDS] = 3.0,
    output: Output = Output(),
) -> int:
    """Measure latency, throughput and memory of artifacts, in turns, so that each meets the same conditions.

    Parameters
    ----------
    seconds
        time to run each artifact, in seconds (default: 3)
    """
    from sandglass.table.rows import speed_rows

    loaded = load_artifacts(artifacts)
    outcomes = _speeds(loaded, run, seconds)
    speeds = [speed for measured in _successes(outcomes) for speed in measured]
    failures = _failures(loaded, outcomes)
    show(output, [*speed_rows(speeds), *failures])
    write_result(output, [*(speed.to_dict() for speed in speeds), *failures])
    return 2 if failures else 0


def _check(artifacts: Sequence[Artifact], dataset: str, results: Path | None) -> None:
    """Raise DatasetError for a dataset of another task, InputError for results that have no COCO format."""
    from sandglass import tasks

    for artifact in artifacts:
        tasks.check_dataset_name(tasks.load_task(artifact.card.task), dataset)
    if results is None:
        return
    if len(artifacts) > 1:
        raise InputError(f"--results {results} needs a single artifact, but {len(artifacts)} were given",
                         "evaluate them one by one, or use --json")  # fmt: skip
    task = artifacts[0].card.task
    if tasks.load_task(task).COCO_RESULTS is None:
        raise InputError(f"--results: COCO's result format does not support the task {task}", "use --json")


def _speeds(
    artifacts: Sequence[Artifact], run: RunOptions, seconds: float | None = None
) -> list[list[Speed] | SandglassError]:
    """For each artifact, its speed at each of its input shapes, or the error that stopped it."""
    from sandglass.measure.benchmarking import benchmark_each

    duration = {} if seconds is None else {"seconds": seconds}
    return benchmark_each(
        artifacts, threads=run.threads, batch=run.batch, progress=Progress("benchmark", "rounds"), **duration
    )


def _successes(outcomes: Sequence[Measured | SandglassError]) -> list[Measured]:
    """The results without the errors. Raises the first error if there is no result."""
    results = [outcome for outcome in outcomes if not isinstance(outcome, SandglassError)]
    if not results:
        raise next(outcome for outcome in outcomes if isinstance(outcome, SandglassError))
    return results


def _failures(artifacts: Sequence[Artifact], outcomes: Sequence[object]) -> list[Row]:
    """The rows of the artifacts that failed; `outcomes` is empty if nothing was measured."""
    from sandglass.table.rows import failed_row

    return [
        failed_row(artifact, outcome)
        for artifact, outcome in zip(artifacts, outcomes, strict=False)
        if isinstance(outcome, SandglassError)
    ]


def _write_coco(path: Path, result: Evaluation) -> None:
    from sandglass.core.files import write_json
    from sandglass.tasks import load_task

    to_coco = load_task(result.artifact.card.task).COCO_RESULTS
    assert to_coco is not None, "checked before the evaluation"
    write_json(path, to_coco(result.predictions))


def _to_dicts(
    evaluations: Sequence[Evaluation], changes: Sequence[object], speeds: Sequence[Sequence[Speed]]
) -> list[dict[str, object]]:
    """The results as JSON data, each with its change against float and, if it was measured, its speed."""
    rows = [{**result.to_dict(), "change": change} for result, change in zip(evaluations, changes, strict=True)]
    if not speeds:
        return rows
    timed = zip(rows, speeds, strict=True)
    return [{**row, "speed": [speed.to_dict() for speed in measured]} for row, measured in timed]
