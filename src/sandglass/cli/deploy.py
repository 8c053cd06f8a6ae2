"""`sandglass deploy` writes artifacts of one model; `sandglass deploy all-of` makes a table of several models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sandglass.cli.inputs import load_calibration
from sandglass.cli.kits import kit_samples
from sandglass.cli.options import (
    CalibrationOptions,
    KitSamples,
    Output,
    Place,
    ProcessorOptions,
    ShapeOptions,
    Source,
    TargetOptions,
    Weights,
)
from sandglass.cli.output import Progress, say, show, write_result
from sandglass.cli.values import FILE, FOLDER, MINUTES, Size
from sandglass.core.errors import InputError

if TYPE_CHECKING:
    from sandglass.artifacts.target import Outcome
    from sandglass.sources.card import Card
    from sandglass.table.markdown import Row


def deploy(
    source: Source,
    /,
    *,
    targets: TargetOptions = TargetOptions(),
    place: Place,
    weights: Weights = Weights(),
    calibration: CalibrationOptions = CalibrationOptions(),
    processor: ProcessorOptions = ProcessorOptions(),
    plan: Annotated[Path | None, FILE] = None,
    quick: bool = False,
    tune_minutes: Annotated[float, MINUTES] = 0.0,
    shapes: ShapeOptions = ShapeOptions(),
    soc: Annotated[str, Parameter(metavar="NAME")] = "",
    samples: KitSamples = KitSamples(),
    flip_test: Annotated[bool | None, Parameter(negative="--no-flip-test")] = None,
    dequantize: bool = False,
    output: Output = Output(),
) -> int:
    """Write artifacts of a model for one or more runtimes.

    Each target gets a folder in --out. To continue after an interruption, run the same command again.

    Parameters
    ----------
    plan
        plan to use for int8, a BACKEND-int8.plan.json (default: a new plan from the calibration images)
    quick
        plan int8 in seconds, by ranges and thresholds alone (default: repair the network for each target)
    tune_minutes
        time to search for fast kernels, in minutes for each target, for a runtime that compiles them (default: 0)
    soc
        processor that the vendor's compiler compiles for, such as Ascend310P3 (needed for ascend only)
    flip_test
        add the mirrored evaluation images to a build kit (default: as the card says)
    dequantize
        convert a quantized source file to float first (default: deploy it unchanged)
    """
    from sandglass import deployment

    card, names = _source_and_targets(source, targets)
    outcomes = deployment.deploy(
        card,
        names,
        place.out,
        checkpoint=weights.checkpoint,
        ema=weights.ema,
        calibration=load_calibration(calibration, card),
        plan=plan,
        quick=quick,
        tune_minutes=tune_minutes,
        soc=soc,
        samples=kit_samples(samples, flip_test),
        shapes=_load_shapes(shapes, card),
        processor=processor.processor,
        dequantize=dequantize,
        force=place.force,
        say=say,
    )
    show(output, [_row(outcome) for outcome in outcomes])
    write_result(output, [_to_dict(outcome) for outcome in outcomes])
    return 2 if any(outcome.error for outcome in outcomes) else 0


def all_of(
    table: Annotated[Path, Parameter(metavar="TABLE.toml")],
    /,
    *,
    out: Annotated[Path, FOLDER],
    output: Output = Output(),
) -> int:
    """Write and measure artifacts of several models, runtimes and precisions, and print a table.

    To continue after an interruption, run the same command again.

    Parameters
    ----------
    table
        file with the models and targets, see docs/table.md
    out
        folder of the table and its artifacts; finished cells in it are reused
    """
    from sandglass.core import host
    from sandglass.core.files import atomic_file, write_json
    from sandglass.table import render
    from sandglass.table.file import read_table
    from sandglass.table.markdown import markdown
    from sandglass.table.run import deploy_all

    lines = deploy_all(read_table(table), out, say=say, progress=Progress)
    rows, conditions = render.table_rows(lines), render.conditions(lines, host.describe())
    page = f"{markdown(rows)}\n\n{conditions}\n"
    for name, text in (("table.md", page), ("table.csv", render.comma_separated(lines))):
        with atomic_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    result = {"cells": render.numbers(lines), "host": host.describe()}
    write_json(out / "table.json", result)
    show(output, rows, conditions)
    write_result(output, result)
    return 2 if any(cell.reason for line in lines for cell in line.cells) else 0


def _source_and_targets(source: str, options: TargetOptions) -> tuple[str | Card, list[str]]:
    """The source and the targets. Raises ConfigError for a deploy config that does not fit the model."""
    if options.to and options.deploy_config:
        raise InputError("--deploy-config and --to exclude each other", "give one of them")
    if options.deploy_config is None:
        if not options.to:
            raise InputError("the target is missing", "give --to BACKEND[:PRECISION], or --deploy-config FILE.py")
        return source, list(options.to)
    from sandglass.sources.load_card import load_card
    from sandglass.sources.openmmlab.deploy import read_deploy_config

    config = read_deploy_config(options.deploy_config)
    card = config.applied(load_card(source))
    for line in config.notes:
        say(f"{config.path.name}: {line}")
    say(f"{config.path.name}: deploying to {config.target}")
    return card, [config.target]


def _load_shapes(options: ShapeOptions, source: str | Card) -> dict[Size, int]:
    """The input shapes with the number of images of each; the graph's shape comes first. Empty without an option."""
    from sandglass.artifacts import input_shapes
    from sandglass.artifacts.find_card import find_card
    from sandglass.sources.card import Card

    if options.shapes and options.shapes_from:
        raise InputError("--shapes-from and --shapes exclude each other", "give one of them")
    if not options.shapes and options.shapes_from is None:
        return {}
    card = source if isinstance(source, Card) else find_card(source)
    if options.shapes_from is None:
        return input_shapes.named_shapes(card, list(dict.fromkeys(size for sizes in options.shapes for size in sizes)))
    shapes, padding = input_shapes.shapes_of_images(card, options.shapes_from, options.max_shapes)
    listing = ", ".join(f"{input_shapes.text(size)} ({images} images)" for size, images in shapes.items())
    say(f"shapes: {len(shapes)} for {sum(shapes.values())} images, {100 * padding:.1f} % padding: {listing}")
    return shapes


def _row(outcome: Outcome) -> Row:
    """The row of an artifact with its size and check, of a build kit with the next step, or of a failed target."""
    from sandglass.table.rows import identity, megabytes

    target = {"backend": outcome.target.backend, "precision": outcome.target.precision}
    if outcome.artifact:
        check = outcome.artifact.manifest.check.summary
        return {**identity(outcome.artifact), "MB": megabytes(outcome.artifact.size), "check": check}
    if outcome.kit:
        return {**target, "check": f"build kit: see {outcome.kit}/README.md, then `sandglass collect {outcome.kit}`"}
    return {**target, "check": f"failed: {outcome.error}"}


def _to_dict(outcome: Outcome) -> dict[str, object]:
    """The outcome as JSON data: the artifact's folder, bytes and check, or the build kit's folder, or the error."""
    from sandglass.core.records import to_data

    artifact = outcome.artifact
    return {
        "backend": outcome.target.backend,
        "precision": outcome.target.precision,
        "artifact": str(artifact.folder) if artifact else None,
        "bytes": artifact.size if artifact else None,
        "check": to_data(artifact.manifest.check) if artifact else None,
        "kit": str(outcome.kit) if outcome.kit else None,
        "error": str(outcome.error) if outcome.error else None,
    }
