"""The command line: one subcommand a stage. It parses and prints; the work is in the modules it calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandglass import discover
from sandglass.cli_configs import add_deploy_config, what_and_where
from sandglass.cli_int8 import add_quantize, add_sensitivity
from sandglass.cli_kits import add_collect, add_kit, kit_row, load_samples
from sandglass.cli_matrix import add_all_of, joined
from sandglass.cli_options import add_calibration, add_draw, count, load_calibration, refuse_coco, say, write_result
from sandglass.cli_shapes import add_shapes, load_shapes, speed_rows
from sandglass.errors import SandglassError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns 0, or 2 after a clear line on standard error; 130 when interrupted."""
    arguments = parser().parse_args(joined(sys.argv[1:] if argv is None else argv))
    try:
        return int(arguments.run(arguments) or 0)
    except SandglassError as error:
        print(f"sandglass: {error.message}", file=sys.stderr)
        if error.fix:
            print(f"  {error.fix}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, say, which any write may meet
        print(f"sandglass: {error}\n  make room, or check the permissions", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sandglass: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    root = argparse.ArgumentParser(prog="sandglass", description="Trained vision models, small and fast, and measured.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _deploy,
        add_all_of(_Progress),
        add_quantize,
        add_sensitivity,
        _evaluate,
        _benchmark,
        _inspect,
        _tune,
        _predict,
        add_collect,
        _models,
        _doctor,
        _fetch,
        _demo,
    ):
        add(commands)
    return root


def _deploy(commands: Any) -> None:
    command = commands.add_parser("deploy", help="write a model for one or more runtimes")
    command.set_defaults(run=_run_deploy)
    command.add_argument(
        "source", help="a zoo model (see `sandglass models`), a model card FILE.toml, or an OpenMMLab config FILE.py"
    )
    add_deploy_config(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets one folder for each target")
    command.add_argument("--checkpoint", type=Path, metavar="FILE", help="trained weights of a zoo model")
    add_calibration(command)
    command.add_argument("--plan", type=Path, metavar="FILE", help="use this quantization plan again")
    command.add_argument(
        "--tune-minutes",
        type=_positive,
        default=0.0,
        metavar="M",
        help="time to choose kernels in, where a runtime compiles them; goes on after a kill",
    )
    add_shapes(command)
    add_kit(command)
    command.add_argument("--force", action="store_true", help="replace artifacts that exist")


def _run_deploy(arguments: argparse.Namespace) -> int:
    from sandglass import pipeline
    from sandglass.report.table import identity, markdown, megabytes

    source, targets = what_and_where(arguments)
    outcomes = pipeline.deploy(
        source,
        targets,
        arguments.out,
        checkpoint=arguments.checkpoint,
        calibration=load_calibration(arguments),
        plan=arguments.plan,
        tune_minutes=arguments.tune_minutes,
        soc=arguments.soc,
        samples=load_samples(arguments),
        shapes=load_shapes(arguments, source),
        force=arguments.force,
        say=say,
    )
    rows = []
    for outcome in outcomes:
        if outcome.artifact:
            check = outcome.artifact.manifest["check"]["summary"]
            rows.append({**identity(outcome.artifact), "MB": megabytes(outcome.artifact.size), "check": check})
        elif outcome.kit:
            rows.append(kit_row(outcome))
        else:
            rows.append({"backend": outcome.target.backend, "precision": outcome.target.precision,
                         "check": f"failed: {outcome.error}"})  # fmt: skip
    print(markdown(rows))
    return 2 if any(outcome.error for outcome in outcomes) else 0


def _evaluate(commands: Any) -> None:
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
    command.add_argument("--results", type=Path, metavar="FILE", help="write the predictions in COCO result format")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")


def _run_evaluate(arguments: argparse.Namespace) -> int:
    from sandglass import evaluation
    from sandglass.artifact import load_artifact
    from sandglass.report.table import evaluation_table

    artifacts = [load_artifact(folder) for folder in arguments.artifacts]
    refuse_coco(arguments.results, artifacts)
    dataset = discover.load("datasets", arguments.dataset).load(
        images=arguments.images,
        annotations=arguments.annotations,
        detections=arguments.detections,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    results = [
        evaluation.evaluate(
            artifact,
            dataset,
            threads=arguments.threads,
            batch=arguments.batch,
            flip_test=arguments.flip_test,
            progress=_Progress(str(artifact.folder)),
        )
        for artifact in artifacts
    ]
    changes = evaluation.changes(results)
    print(evaluation_table(results, changes))
    print("\n" + ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in results[0].protocol.items()))
    rows = [{**result.to_dict(), "change": change} for result, change in zip(results, changes, strict=True)]
    if arguments.results:
        task = discover.load("tasks", artifacts[0].card.task)
        write_result(arguments.results, task.to_coco(results[0].predictions))
    write_result(arguments.json, rows)
    return 0


def _benchmark(commands: Any) -> None:
    command = commands.add_parser("benchmark", help="latency, throughput and memory of artifacts, interleaved")
    command.set_defaults(run=_run_benchmark)
    command.add_argument("artifacts", nargs="+", type=Path, metavar="ARTIFACT")
    command.add_argument("--threads", type=count, metavar="N")
    command.add_argument("--batch", type=count, default=1, metavar="N")
    command.add_argument("--seconds", type=_positive, default=3.0, metavar="S", help="for each artifact (default 3)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")


def _run_benchmark(arguments: argparse.Namespace) -> int:
    from sandglass.artifact import load_artifact
    from sandglass.benchmarking import benchmark
    from sandglass.report.table import markdown

    speeds = benchmark(
        [load_artifact(folder) for folder in arguments.artifacts],
        threads=arguments.threads,
        batch=arguments.batch,
        seconds=arguments.seconds,
        progress=_Progress("benchmark"),
    )
    print(markdown(speed_rows(speeds)))
    write_result(arguments.json, [speed.to_dict() for speed in speeds])
    return 0


def _inspect(commands: Any) -> None:
    command = commands.add_parser("inspect", help="is it really int8? every layer as the runtime executes it")
    command.set_defaults(run=_run_inspect)
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("--against", type=Path, metavar="ARTIFACT", help="a float one: shows where int8 is slower")
    command.add_argument("--threads", type=count, metavar="N")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the layers as JSON too")


def _run_inspect(arguments: argparse.Namespace) -> int:
    from sandglass.artifact import load_artifact
    from sandglass.inspection import inspect, summary
    from sandglass.report.table import inspection_rows, markdown

    against = load_artifact(arguments.against) if arguments.against else None
    found = inspect(load_artifact(arguments.artifact), threads=arguments.threads, against=against)
    print(markdown(inspection_rows(found)) + "\n" if found.runs else "this backend executes no layers\n")
    print("\n".join(summary(found)))
    write_result(arguments.json, found.to_dict())
    return 0


def _tune(commands: Any) -> None:
    command = commands.add_parser(
        "tune", help="find the fastest settings of the runtime on this machine, and keep them"
    )
    command.set_defaults(run=_run_tune)
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument(
        "--for", dest="goal", default="latency", metavar="GOAL", help="latency (default) or throughput"
    )
    command.add_argument("--seconds", type=_positive, default=60.0, metavar="S", help="to search for (default 60)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write every trial as JSON too")


def _run_tune(arguments: argparse.Namespace) -> int:
    from sandglass.artifact import load_artifact
    from sandglass.report.table import markdown, trial_row
    from sandglass.tuning import summary, tune

    artifact = load_artifact(arguments.artifact)
    found = tune(artifact, goal=arguments.goal, seconds=arguments.seconds, say=say)
    print(markdown([trial_row(trial) for trial in found.trials]) + "\n")
    print("\n".join(summary(found)))
    write_result(arguments.json, found.to_dict())
    return 0


def _predict(commands: Any) -> None:
    command = commands.add_parser("predict", help="draw what an artifact sees in an image")
    command.set_defaults(run=_run_predict)
    command.add_argument("artifact", type=Path, metavar="ARTIFACT")
    command.add_argument("image", type=Path, metavar="IMAGE")
    command.add_argument("--out", type=Path, required=True, metavar="PNG")
    command.add_argument("--box", type=_box, action="append", metavar="X,Y,W,H", default=[],
                         help="what to look at, in pixels; may be repeated (default: the whole image)")  # fmt: skip
    command.add_argument("--json", type=Path, metavar="FILE", help="write the predictions as JSON too")


def _run_predict(arguments: argparse.Namespace) -> int:
    from sandglass.artifact import load_artifact
    from sandglass.prediction import predict
    from sandglass.vision.image import write_image

    picture, predictions = predict(load_artifact(arguments.artifact), arguments.image, arguments.box)
    write_image(arguments.out, picture)
    write_result(arguments.json, predictions)
    return 0


def _models(commands: Any) -> None:
    command = commands.add_parser("models", help="the zoo: names, tasks, input sizes, published metrics")
    command.set_defaults(run=_run_models)
    command.add_argument("--json", type=Path, metavar="FILE")


def _run_models(arguments: argparse.Namespace) -> int:
    from sandglass import card
    from sandglass.report.table import markdown, model_row

    cards = [card.load_card(name) for name in card.zoo()]
    print(markdown([model_row(entry) for entry in cards]))
    write_result(arguments.json, [entry.to_dict() for entry in cards])
    return 0


def _doctor(commands: Any) -> None:
    command = commands.add_parser("doctor", help="which backends are usable here, and how to get the others")
    command.set_defaults(run=_run_doctor)
    command.add_argument("--json", type=Path, metavar="FILE")


def _run_doctor(arguments: argparse.Namespace) -> int:
    from sandglass import host
    from sandglass.report.table import doctor_row, markdown

    rows, machine = host.backends(), host.describe()
    print(markdown([doctor_row(row) for row in rows]))
    print(f"\n{machine['processor']}, {machine['threads']} threads, {' '.join(machine['instruction_sets'])}")
    write_result(arguments.json, {"backends": rows, "host": machine})
    return 0


def _fetch(commands: Any) -> None:
    command = commands.add_parser("fetch", help="download a zoo checkpoint into the cache, and verify it")
    command.set_defaults(run=_run_fetch)
    command.add_argument("model", metavar="MODEL")
    command.add_argument(
        "--mirror", action="append", default=[], metavar="URL", help="also try URL/FILE; may be repeated"
    )


def _run_fetch(arguments: argparse.Namespace) -> int:
    from sandglass.card import load_card
    from sandglass.fetch import fetch_card

    print(fetch_card(load_card(arguments.model), mirrors=arguments.mirror, progress=_Progress(arguments.model)))
    return 0


def _demo(commands: Any) -> None:
    command = commands.add_parser("demo", help="the main job on the embedded model and data")
    command.set_defaults(run=_run_demo)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--force", action="store_true", help="replace what is there")


def _run_demo(arguments: argparse.Namespace) -> int:
    from sandglass.demo import demo

    return demo(arguments.out, force=arguments.force, say=say, progress=_Progress)


class _Progress:
    """A line on the terminal that rewrites itself; silent where standard error is no terminal."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done >= total else ""
            print(f"\r{self.label}: {done}/{total}", end=end, file=sys.stderr, flush=True)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or min(box[2:]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H with a width and a height above 0")
    return box


if __name__ == "__main__":
    sys.exit(main())
