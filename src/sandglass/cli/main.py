"""The command line: one subcommand a stage. It parses and prints; the work is in the modules it calls."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandglass.cli.configs import add_deploy_config, what_and_where
from sandglass.cli.inputs import load_calibration
from sandglass.cli.kits import add_collect, add_kit, kit_row, load_samples
from sandglass.cli.measure import add_benchmark, add_evaluate, add_inspect, add_tune
from sandglass.cli.options import Progress, add_calibration, add_checkpoint, add_processor, positive, say, write_result
from sandglass.cli.quantize import add_quantize, add_sensitivity
from sandglass.cli.shapes import add_shapes, load_shapes
from sandglass.cli.system import discard_output, escape_unprintable, fix_of, flush, one_line, refuse_other_encodings
from sandglass.cli.table import add_all_of, joined
from sandglass.core.errors import SandglassError
from sandglass.core.files import run_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Returns 0, or 2 after a clear line on standard error.

    130 says that it was interrupted or terminated, 141 that nobody reads its output any more, as after `| head`.
    """
    escape_unprintable()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(joined(sys.argv[1:] if argv is None else argv))
    except SandglassError as error:
        return _failed(error.message, error.fix)
    except BrokenPipeError:
        discard_output()
        return 141
    except OSError as error:  # a full disk, say, which any write may meet
        return _failed(str(error), fix_of(error))
    except KeyboardInterrupt:
        return _failed("interrupted; run the same command again to go on", code=130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(argv: Sequence[str]) -> int:
    try:
        refuse_other_encodings(argv)
        arguments = parser().parse_args(argv)
        with run_folder():
            return int(arguments.run(arguments) or 0)
    finally:
        flush()


def _failed(message: str, fix: str = "", code: int = 2) -> int:
    """Say what went wrong, a line for it and a line for what to do; returns the exit code."""
    with suppress(BrokenPipeError):  # nobody reads it
        say(f"sandglass: {one_line(message)}")
        if fix:
            say(f"  {one_line(fix)}")
    discard_output()
    return code


class _Terminated(KeyboardInterrupt):
    """SIGTERM as an interruption. Not KeyboardInterrupt itself: where that one passes through code that is made from
    text, as dataclasses are, `python -m` remembers it, and ends by SIGINT whatever `main` returns."""


def _terminate(*_: object) -> None:
    """Leave by way of every `finally`, so that temporary folders are cleared away."""
    raise _Terminated


def parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    root = argparse.ArgumentParser(prog="sandglass", description="Trained vision models, small and fast, and measured.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _deploy,
        add_all_of,
        add_quantize,
        add_sensitivity,
        add_evaluate,
        add_benchmark,
        add_inspect,
        add_tune,
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
    add_checkpoint(command)
    add_calibration(command)
    add_processor(command)
    command.add_argument("--plan", type=Path, metavar="FILE", help="use this quantization plan again")
    command.add_argument(
        "--tune-minutes",
        type=positive,
        default=0.0,
        metavar="M",
        help="time to choose kernels in, where a runtime compiles them; goes on after a kill",
    )
    add_shapes(command)
    add_kit(command)
    command.add_argument(
        "--dequantize",
        action="store_true",
        help="take a file that is quantized already back to float first (by default it is deployed as it is)",
    )
    command.add_argument("--force", action="store_true", help="replace artifacts that exist")


def _run_deploy(arguments: argparse.Namespace) -> int:
    from sandglass import deployment
    from sandglass.table.markdown import identity, markdown, megabytes

    source, targets = what_and_where(arguments)
    outcomes = deployment.deploy(
        source,
        targets,
        arguments.out,
        checkpoint=arguments.checkpoint,
        ema=arguments.ema,
        calibration=load_calibration(arguments, source),
        plan=arguments.plan,
        tune_minutes=arguments.tune_minutes,
        soc=arguments.soc,
        samples=load_samples(arguments),
        shapes=load_shapes(arguments, source),
        processor=arguments.processor,
        dequantize=arguments.dequantize,
        force=arguments.force,
        say=say,
    )
    rows = []
    for outcome in outcomes:
        if outcome.artifact:
            check = outcome.artifact.manifest.check.summary
            rows.append({**identity(outcome.artifact), "MB": megabytes(outcome.artifact.size), "check": check})
        elif outcome.kit:
            rows.append(kit_row(outcome))
        else:
            rows.append({"backend": outcome.target.backend, "precision": outcome.target.precision,
                         "check": f"failed: {outcome.error}"})  # fmt: skip
    print(markdown(rows))
    return 2 if any(outcome.error for outcome in outcomes) else 0


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
    from sandglass.artifacts.artifact import load_artifact
    from sandglass.measure.prediction import predict
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
    from sandglass.sources.card import zoo
    from sandglass.sources.load_card import load_card
    from sandglass.table.markdown import markdown, model_row

    cards = [load_card(name) for name in zoo()]
    print(markdown([model_row(entry) for entry in cards]))
    write_result(arguments.json, [entry.to_dict() for entry in cards])
    return 0


def _doctor(commands: Any) -> None:
    command = commands.add_parser("doctor", help="which backends are usable here, and how to get the others")
    command.set_defaults(run=_run_doctor)
    command.add_argument("--json", type=Path, metavar="FILE")


def _run_doctor(arguments: argparse.Namespace) -> int:
    from sandglass.core import host
    from sandglass.table.markdown import doctor_row, markdown

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
    command.add_argument(
        "--time-limit", type=positive, default=60.0, metavar="MINUTES", help="for all addresses together (default 60)"
    )
    command.add_argument(
        "--insecure", action="store_true", help="accept a card whose sha256 has too few digits to verify the file"
    )


def _run_fetch(arguments: argparse.Namespace) -> int:
    from sandglass.sources.fetch import fetch_card
    from sandglass.sources.load_card import load_card

    path = fetch_card(
        load_card(arguments.model),
        mirrors=arguments.mirror,
        progress=Progress(arguments.model),
        insecure=arguments.insecure,
        seconds=60 * arguments.time_limit,
    )
    print(path)
    return 0


def _demo(commands: Any) -> None:
    command = commands.add_parser("demo", help="the main job on the embedded model and data")
    command.set_defaults(run=_run_demo)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--force", action="store_true", help="replace what is there")


def _run_demo(arguments: argparse.Namespace) -> int:
    from sandglass.cli.demo import demo

    return demo(arguments.out, force=arguments.force, say=say, progress=Progress)


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or min(box[2:]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H with a width and a height above 0")
    return box
