"""The subcommands around int8: the search under a budget, and what each layer costs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandglass.cli.inputs import load_images, needed_calibration
from sandglass.cli.options import (
    Once,
    add_calibration,
    add_checkpoint,
    add_draw,
    add_images,
    add_processor,
    say,
    write_result,
)

if TYPE_CHECKING:
    from sandglass.search.quantize import Quantization


def add_quantize(commands: Any) -> None:
    """`sandglass quantize`."""
    command = commands.add_parser("quantize", help="the fastest int8 artifact that keeps an accuracy budget")
    command.set_defaults(run=_run_quantize)
    command.add_argument("source", help="a zoo model, a model card FILE.toml or the folder of a float artifact")
    command.add_argument("--to", required=True, action=Once, metavar="BACKEND:int8", dest="target")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_checkpoint(command)
    command.add_argument("--max-drop", type=_points, default=0.5, metavar="POINTS", help="of the metric (default 0.5)")
    command.add_argument("--metric", metavar="NAME", help="(default: the task's first)")
    command.add_argument(
        "--min-fidelity", type=_share, metavar="F",
        help="agreement with the float network on the evaluation images (default: the task's, 0.985 for pose)",
    )  # fmt: skip
    add_images(command, "evaluation", "images that the result is measured on")
    add_calibration(command)
    add_processor(command)
    _add_without(command)
    add_draw(command)
    command.add_argument(
        "--gain", default="time", choices=("time", "work"),
        help="what int8 saves: time on this machine (default), or multiply-accumulates, for another machine",
    )  # fmt: skip
    command.add_argument(
        "--min-int8-share", type=_share, default=0.0, metavar="SHARE",
        help="minimum share of multiply-accumulates to run in int8, even where that makes a layer slower (default 0)",
    )  # fmt: skip
    command.add_argument("--best-effort", action="store_true", help="publish the best found where the budget fails")
    command.add_argument("--force", action="store_true", help="replace what is there")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON too")


def _run_quantize(arguments: argparse.Namespace) -> int:
    from sandglass.cli.layer_table import search_report
    from sandglass.search.quantize import quantize

    evaluation = load_images(arguments, "evaluation", arguments.source, limit=arguments.limit, seed=arguments.seed)
    result = quantize(
        arguments.source,
        arguments.target,
        arguments.out,
        calibration=needed_calibration(arguments, arguments.source),
        evaluation=evaluation,
        checkpoint=arguments.checkpoint,
        ema=arguments.ema,
        max_drop=arguments.max_drop,
        metric=arguments.metric,
        min_fidelity=arguments.min_fidelity,
        without=arguments.without,
        gain=arguments.gain,
        min_int8_share=arguments.min_int8_share,
        processor=arguments.processor,
        best_effort=arguments.best_effort,
        force=arguments.force,
        say=say,
    )
    print(search_report(result))
    write_result(arguments.json, to_dict(result))
    return 0


def add_sensitivity(commands: Any) -> None:
    """`sandglass sensitivity`."""
    command = commands.add_parser("sensitivity", help="what each layer costs and gains in int8, rounded alone")
    command.set_defaults(run=_run_sensitivity)
    command.add_argument("source", help="a zoo model (see `sandglass models`) or a model card FILE.toml")
    command.add_argument("--to", required=True, action=Once, metavar="BACKEND:int8", dest="target")
    add_checkpoint(command)
    add_calibration(command)
    add_processor(command)
    _add_without(command)
    command.add_argument("--plot", type=Path, metavar="PNG", help="draw it too")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON too")


def _run_sensitivity(arguments: argparse.Namespace) -> int:
    from sandglass.cli.layer_table import draw_costs, sensitivity_table
    from sandglass.search.quantize import sensitivity
    from sandglass.vision.image import write_image

    costs = sensitivity(
        arguments.source,
        arguments.target,
        calibration=needed_calibration(arguments, arguments.source),
        checkpoint=arguments.checkpoint,
        ema=arguments.ema,
        without=arguments.without,
        processor=arguments.processor,
        say=say,
    )
    print(sensitivity_table(costs))
    if arguments.plot:
        write_image(arguments.plot, draw_costs(costs))
    write_result(arguments.json, [asdict(cost) for cost in costs])
    return 0


def _add_without(command: argparse.ArgumentParser) -> None:
    command.add_argument("--without", action="append", default=[], metavar="REPAIR", help="leave out a repair")


def to_dict(result: Quantization) -> dict[str, Any]:
    """JSON-able result."""
    return {
        "artifact": str(result.artifact.folder),
        "met": result.met,
        "verdict": result.verdict,
        "int8_share_of_macs": result.integer_share,
        "expected": {"sure_fidelity": result.choice.fidelity, "milliseconds": result.expected_ms},
        "layers": [
            {**asdict(cost), "runs_in": "int8" if cost.name in result.choice.bits else "float",
             "weight_bits": result.choice.bits.get(cost.name),
             "because": result.choice.reasons.get(cost.name, "")}
            for cost in result.costs
        ],
        "evaluations": [found.to_dict() for found in result.evaluations],
        "changes": result.changes,
        "fidelity": result.agreements,
        "fidelity_check": asdict(result.fidelity),
        "speeds": [speed.to_dict() for speed in result.speeds],
    }  # fmt: skip


def _points(text: str) -> float:
    return _between(text, 0.0, 100.0)


def _share(text: str) -> float:
    return _between(text, 0.0, 1.0)


def _between(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
    return value
