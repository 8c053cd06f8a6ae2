"""The subcommands around int8: the search under a budget, and what each layer costs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandglass import discover

if TYPE_CHECKING:
    from sandglass.quantization import Quantization

METHODS = ("kl", "mse", "minmax", "percentile")


def add_quantize(commands: Any) -> None:
    """`sandglass quantize`."""
    command = commands.add_parser("quantize", help="the fastest int8 artifact that keeps an accuracy budget")
    command.set_defaults(run=_run_quantize)
    command.add_argument("source", help="a zoo model (see `sandglass models`) or a model card FILE.toml")
    command.add_argument("--to", required=True, metavar="BACKEND:int8", dest="target")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--checkpoint", type=Path, metavar="FILE", help="trained weights of a zoo model")
    command.add_argument("--max-drop", type=_points, default=0.5, metavar="POINTS", help="of the metric (default 0.5)")
    command.add_argument("--metric", metavar="NAME", help="(default: the task's first)")
    command.add_argument(
        "--min-fidelity", type=_share, default=0.985, metavar="F",
        help="agreement with the float network on the evaluation images, 0 to 1 (default 0.985)",
    )  # fmt: skip
    for name in ("calibration", "evaluation"):
        command.add_argument(f"--{name}", type=Path, metavar="IMAGES_DIR")
        command.add_argument(f"--{name}-annotations", type=Path, metavar="JSON")
        command.add_argument(f"--{name}-dataset", default="coco-keypoints", choices=discover.names("datasets"))
    command.add_argument("--calibration-size", type=int, default=64, metavar="N", help="samples (default 64)")
    command.add_argument("--calibration-method", default="kl", choices=METHODS, help="(default kl)")
    command.add_argument("--limit", type=int, metavar="N", help="images of the evaluation, drawn by a fixed seed")
    command.add_argument("--without", action="append", default=[], metavar="REPAIR", help="leave out a repair")
    command.add_argument("--best-effort", action="store_true", help="publish the best found where the budget fails")
    command.add_argument("--force", action="store_true", help="replace what is there")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON too")


def _run_quantize(arguments: argparse.Namespace) -> int:
    from sandglass.errors import InputError
    from sandglass.files import write_json
    from sandglass.pipeline import Calibration
    from sandglass.quantization import quantize
    from sandglass.quantize.repair import REPAIRS

    known = {name.replace(" ", "-"): name for name in REPAIRS}
    if unknown := [name for name in arguments.without if name not in known]:
        raise InputError(f"unknown repair {unknown[0]!r}", f"known: {', '.join(known)}")
    calibration, evaluation = (
        discover.load("datasets", getattr(arguments, f"{name}_dataset")).load(
            images=getattr(arguments, name),
            annotations=getattr(arguments, f"{name}_annotations"),
            split="train" if name == "calibration" else "test",
            limit=arguments.calibration_size if name == "calibration" else arguments.limit,
        )
        for name in ("calibration", "evaluation")
    )
    result = quantize(
        arguments.source,
        arguments.target,
        arguments.out,
        calibration=Calibration(calibration, arguments.calibration_size, arguments.calibration_method),
        evaluation=evaluation,
        checkpoint=arguments.checkpoint,
        max_drop=arguments.max_drop,
        metric=arguments.metric,
        least_fidelity=arguments.min_fidelity,
        repairs=[name for option, name in known.items() if option not in arguments.without],
        best_effort=arguments.best_effort,
        force=arguments.force,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(report(result))
    if arguments.json:
        write_json(arguments.json, json.loads(json.dumps(to_dict(result))))
    return 0


def report(result: Quantization) -> str:
    """The layers and why, the three artifacts side by side, and the verdict."""
    from sandglass.quantize.sensitivity import decibels
    from sandglass.report.table import markdown

    layers = [
        {
            "layer": cost.name,
            "noise dB": f"{decibels(cost.noise):.1f}",
            "float ms": f"{cost.float_ms:.3f}",
            "int8 ms": f"{cost.int8_ms:.3f}",
            "runs in": "float" if cost.name in result.choice.reasons else "int8",
            "because": result.choice.reasons.get(cost.name, ""),
        }
        for cost in result.costs
    ]
    metric = next(iter(result.changes[0]))
    rows = []
    for i, kind in enumerate(("float", "full int8", "chosen")):
        row = {"artifact": kind, metric: f"{result.evaluations[i].metrics[metric]['value']:.3f}",
               "median ms": f"{result.speeds[i].median:.2f}",
               "to float": f"{result.speeds[i].median / result.speeds[0].median:.2f}"}  # fmt: skip
        if i:
            change = {key: 100 * value for key, value in result.changes[i - 1][metric].items()}
            row["change in points (95 %)"] = f"{change['value']:+.2f} ({change['low']:+.2f} .. {change['high']:+.2f})"
            row |= {
                f"{name} to float": f"{found['value']:.4f} ({found['low']:.4f} .. {found['high']:.4f})"
                for name, found in result.agreements[i - 1].items()
            }
        rows.append(row)
    share = f"{result.integer_share:.0%} of the multiply-accumulates run in int8."
    return "\n\n".join([markdown(layers), markdown(rows), f"{share} {result.verdict}."])


def to_dict(result: Quantization) -> dict[str, Any]:
    """JSON-able result."""
    return {
        "artifact": str(result.artifact.folder),
        "met": result.met,
        "verdict": result.verdict,
        "int8_share_of_macs": result.integer_share,
        "expected": {"fidelity": result.choice.fidelity, "milliseconds": result.choice.milliseconds},
        "layers": [
            {**vars(cost), "runs_in": "float" if cost.name in result.choice.reasons else "int8",
             "because": result.choice.reasons.get(cost.name, "")}
            for cost in result.costs
        ],
        "evaluations": [found.to_dict() for found in result.evaluations],
        "changes": result.changes,
        "fidelity": result.agreements,
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
