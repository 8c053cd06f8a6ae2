"""What the command line says of build kits: options of `deploy`, and `collect`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandglass.cli.options import add_draw, write_result
from sandglass.core import discover

if TYPE_CHECKING:
    from sandglass.artifacts.build_key import Samples
    from sandglass.artifacts.target import Outcome
    from sandglass.table.markdown import Row


def add_kit(command: argparse.ArgumentParser) -> None:
    """Options of `deploy` for targets whose compiler is a vendor's."""
    command.add_argument("--soc", default="", metavar="NAME", help="the processor to compile for, e.g. Ascend310P3")
    _add_samples(command, "evaluation samples that a build kit takes along")
    command.add_argument("--flip-test", action=argparse.BooleanOptionalAction, help="with their mirrored images")


def load_samples(arguments: argparse.Namespace) -> Samples | None:
    """The evaluation samples that a kit is to take along; None where none were asked for."""
    from sandglass.artifacts.build_key import Samples

    dataset = _load(arguments, arguments.flip_test)
    return None if dataset is None else Samples(dataset, arguments.flip_test)


def kit_row(outcome: Outcome) -> Row:
    """A target whose build kit was made, and what to do with it."""
    return {
        "backend": outcome.target.backend,
        "precision": outcome.target.precision,
        "check": f"build kit: see {outcome.kit}/README.md, then `sandglass collect {outcome.kit}`",
    }


def add_collect(commands: Any) -> None:
    """`sandglass collect`."""
    command = commands.add_parser("collect", help="accuracy and speed of a build kit that came back with results")
    command.set_defaults(run=_run_collect)
    command.add_argument("kit", type=Path, metavar="KIT")
    _add_samples(command, "the samples that the kit was made with")
    command.add_argument("--against", type=Path, metavar="ARTIFACT", help="a float one, for the change of accuracy")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")


def _run_collect(arguments: argparse.Namespace) -> int:
    from sandglass.artifacts.artifact import load_artifact
    from sandglass.kit import collect
    from sandglass.measure import evaluation
    from sandglass.table.markdown import evaluation_table, markdown, speed_row

    kit = collect.load_kit(arguments.kit)
    agreed = collect.agreement(kit)
    found: dict[str, Any] = {"check": agreed, "speed": kit.speed_dict()}
    print(f"{agreed['summary']}\n")
    dataset = _load(arguments, arguments.against)
    if dataset is not None:
        results = [collect.evaluation(kit, dataset)]
        if arguments.against:
            flip = bool(results[0].protocol["flip_test"])
            results.insert(0, evaluation.evaluate(load_artifact(arguments.against), dataset, flip_test=flip))
        changes = evaluation.changes(results)
        print(evaluation_table(results, changes))
        print(
            "\n" + ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in results[0].protocol.items()) + "\n"
        )
        rows = zip(results, changes, strict=True)
        found["evaluations"] = [{**result.to_dict(), "change": change} for result, change in rows]
    speed = kit.speed()
    print(markdown([{key: cell for key, cell in speed_row(speed, speed.median).items() if key != "peak MiB"}]))
    print(f"\nmeasured there: {kit.version()}, {kit.reported['host']['system']}")
    write_result(arguments.json, found)
    return 0


def _add_samples(command: argparse.ArgumentParser, told: str) -> None:
    command.add_argument("--dataset", choices=discover.names("datasets"), help=told)
    command.add_argument("--images", type=Path, metavar="DIR")
    command.add_argument("--annotations", type=Path, metavar="FILE")
    command.add_argument("--detections", type=Path, metavar="JSON", help="boxes in COCO result format")
    add_draw(command)


def _load(arguments: argparse.Namespace, *more: Any) -> Any:
    """The dataset that was asked for; None where none was, which no other option may then be about."""
    from sandglass.core.errors import InputError

    about = (arguments.images, arguments.annotations, arguments.detections, arguments.limit, *more)
    if arguments.dataset is None:
        if any(option is not None for option in about):
            raise InputError(
                "samples are told without their dataset", f"give --dataset {'|'.join(discover.names('datasets'))}"
            )
        return None
    return discover.load("datasets", arguments.dataset).load(
        images=arguments.images,
        annotations=arguments.annotations,
        detections=arguments.detections,
        limit=arguments.limit,
        seed=arguments.seed,
    )
