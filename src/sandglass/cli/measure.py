"""The subcommands that measure artifacts: evaluate, benchmark, inspect, tune."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandglass.cli.inputs import load_artifacts
from sandglass.cli.options import Progress, add_draw, count, positive, say, write_result
from sandglass.cli.shapes import speed_rows
from sandglass.core import discover
from sandglass.core.errors import InputError, SandglassError

if TYPE_CHECKING:
    from sandglass.artifacts.artifact import Artifact
    from sandglass.measure.benchmarking import Speed


def add_evaluate(commands: Any) -> None:
    """Adds `sandglass evaluate`."""
    command = commands.add_parser("evaluate", help="accuracy of artifacts on a dataset, by the task's own metric")
    command.set_defaults(run=_run_evaluate)
    command.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    command.add_argument("--dataset", required=True, choices=discover.names("datasets"))
    command.add_argument("--images", type=Path, metavar="DIR")
    command.add_argument("--annotations", type=Path, metavar="PATH", help="truths, where they are not in the images")
    command.add_argument("--detections", type=Path, metavar="JSON", help="boxes in COCO result format")
    add_draw(command)
    command.add_argument("--flip-test", action=argparse.BooleanOptionalAction, help="average with the mirrored image")
    command.add_argument("--threads", type=count, metavar="N")
    command.add_argument("--batch", type=count, default=1, metavar="N")
    command.add_argument("--speed", action="store_true", help="time them too, with the same threads and batch")
    command.add_argument("--results", type=Path, metavar="FILE", help="write the predictions in COCO result format")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")


def _run_evaluate(arguments: argparse.Namespace) -> int:
    from sandglass import tasks
    from sandglass.measure import evaluation
    from sandglass.table.markdown import evaluation_table

    artifacts = load_artifacts(arguments.artifacts)
    _refuse_coco(arguments.results, artifacts)
    for artifact in artifacts:
        tasks.check_dataset_name(discover.load("tasks", artifact.card.task), arguments.dataset)
    dataset = discover.load("datasets", arguments.dataset).load(
        images=arguments.images,
        annotations=arguments.annotations,
        detections=arguments.detections,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    found = evaluation.evaluate_each(
        artifacts,
        lambda artifact: evaluation.evaluate(
            artifact,
            dataset,
            threads=arguments.threads,
            batch=arguments.batch,
            flip_test=arguments.flip_test,
            progress=Progress(str(artifact.folder)),
        ),
    )
    results = [entry for entry in found if isinstance(entry, evaluation.Evaluation)]
    failures = _failures(artifacts, found)
    if not results:
        _raise_first(found)
    changes, timed = evaluation.changes(results), _speeds(arguments, [result.artifact for result in results])
    failures += _failures([result.artifact for result in results], timed)
    speeds = [[] if isinstance(entry, SandglassError) else entry for entry in timed]
    print(evaluation_table(results, changes, speeds, failures))
    print("\n" + ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in results[0].protocol.items()))
    rows = [{**result.to_dict(), "change": change} for result, change in zip(results, changes, strict=True)]
    if speeds:
        rows = [{**row, "speed": [s.to_dict() for s in entry]} for row, entry in zip(rows, speeds, strict=True)]
    if arguments.results:
        task = discover.load("tasks", artifacts[0].card.task)
        write_result(arguments.results, task.to_coco(results[0].predictions))
    write_result(arguments.json, rows + failures)
    return 2 if failures else 0


def _failures(artifacts: Sequence[Artifact], found: Sequence[Any]) -> list[dict[str, str]]:
    """Rows of the artifacts that an error was found for."""
    from sandglass.table.markdown import failed_row

    return [
        failed_row(artifact, entry)
        for artifact, entry in zip(artifacts, found, strict=False)  # nothing was asked for where `found` is empty
        if isinstance(entry, SandglassError)
    ]


def _raise_first(found: Sequence[Any]) -> None:
    for entry in found:
        if isinstance(entry, SandglassError):
            raise entry


def _refuse_coco(path: Path | None, artifacts: Sequence[Artifact]) -> None:
    """Raise InputError where a file in COCO's result format was asked for that these artifacts cannot fill."""
    if path is None:
        return
    if len(artifacts) > 1:
        raise InputError(f"--results {path} is for one artifact, and {len(artifacts)} were given", "evaluate one")
    task = artifacts[0].card.task
    if not hasattr(discover.load("tasks", task), "to_coco"):
        raise InputError(f"COCO's result format has nothing for {task}", "use --json")


def _speeds(arguments: argparse.Namespace, artifacts: Sequence[Artifact]) -> list[list[Speed] | SandglassError]:
    """For each artifact its speed at each of its shapes, or what stopped it; nothing where that was not asked for."""
    from sandglass.measure.benchmarking import benchmark_each

    if not arguments.speed:
        return []
    return benchmark_each(artifacts, threads=arguments.threads, batch=arguments.batch, progress=Progress("benchmark"))


def add_benchmark(commands: Any) -> None:
    """Adds `sandglass benchmark`."""
    command = commands.add_parser("benchmark", help="latency, throughput and memory of artifacts, interleaved")
    command.set_defaults(run=_run_benchmark)
    command.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    command.add_argument("--threads", type=count, metavar="N")
    command.add_argument("--batch", type=count, default=1, metavar="N")
    command.add_argument("--seconds", type=positive, default=3.0, metavar="S", help="for each artifact (default 3)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")


def _run_benchmark(arguments: argparse.Namespace) -> int:
    from sandglass.measure.benchmarking import benchmark_each
    from sandglass.table.markdown import markdown

    artifacts = load_artifacts(arguments.artifacts)
    found = benchmark_each(
        artifacts,
        threads=arguments.threads,
        batch=arguments.batch,
        seconds=arguments.seconds,
        progress=Progress("benchmark"),
    )
    speeds = [speed for entry in found if not isinstance(entry, SandglassError) for speed in entry]
    failures = _failures(artifacts, found)
    if not speeds:
        _raise_first(found)
    print(markdown([*speed_rows(speeds), *failures]))
    write_result(arguments.json, [speed.to_dict() for speed in speeds] + failures)
    return 2 if failures else 0


def add_inspect(commands: Any) -> None:
    """Adds `sandglass inspect`."""
    command = commands.add_parser("inspect", help="is it really int8? every layer as the runtime executes it")
    command.set_defaults(run=_run_inspect)
    command.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    command.add_argument("--against", type=Path, metavar="ARTIFACT", help="a float one: shows where int8 is slower")
    command.add_argument("--threads", type=count, metavar="N")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the layers as JSON too")


def _run_inspect(arguments: argparse.Namespace) -> int:
    from sandglass.artifacts.artifact import load_artifact
    from sandglass.measure.inspection import inspect, summary
    from sandglass.table.markdown import inspection_rows, markdown

    against = load_artifact(arguments.against) if arguments.against else None

    def inspected(artifact: Artifact) -> dict[str, Any]:
        found = inspect(artifact, threads=arguments.threads, against=against)
        print(markdown(inspection_rows(found)) + "\n" if found.runs else "this backend executes no layers\n")
        print("\n".join(summary(found)))
        return found.to_dict()

    return _each(arguments, inspected)


def add_tune(commands: Any) -> None:
    """Adds `sandglass tune`."""
    command = commands.add_parser(
        "tune", help="find the fastest settings of the runtime on this machine, and keep them"
    )
    command.set_defaults(run=_run_tune)
    command.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    command.add_argument(
        "--for", dest="goal", default="latency", metavar="GOAL", help="latency (default) or throughput"
    )
    command.add_argument("--seconds", type=positive, default=60.0, metavar="S", help="to search for (default 60)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write every trial as JSON too")


def _run_tune(arguments: argparse.Namespace) -> int:
    from sandglass.measure.tuning import summary, tune
    from sandglass.table.markdown import markdown, trial_row

    def tuned(artifact: Artifact) -> dict[str, Any]:
        found = tune(artifact, goal=arguments.goal, seconds=arguments.seconds, say=say)
        print(markdown([trial_row(trial) for trial in found.trials]) + "\n")
        print("\n".join(summary(found)))
        return found.to_dict()

    return _each(arguments, tuned)


def _each(arguments: argparse.Namespace, work: Callable[[Artifact], dict[str, Any]]) -> int:
    """Do `work` for each artifact, and write its result as JSON: a list where there are several artifacts.

    The error of one of several is printed and does not stop the others; the exit code is 2 then.
    """
    artifacts = load_artifacts(arguments.artifacts)
    if len(artifacts) == 1:
        write_result(arguments.json, work(artifacts[0]))
        return 0
    results: list[dict[str, Any]] = []
    for artifact in artifacts:
        print(f"\n{artifact.folder}\n")
        try:
            results.append(work(artifact))
        except SandglassError as error:
            say(f"{artifact.folder}: {error}")
    write_result(arguments.json, results)
    return 2 if len(results) < len(artifacts) else 0
