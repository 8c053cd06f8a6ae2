"""What several subcommands share: options and their types, progress lines, results as JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sandglass.core import discover
from sandglass.core.errors import InputError
from sandglass.core.processor import PROCESSORS, Processor, find_processor

ANNOTATED = "coco-keypoints"  # the format of annotations where none is named
METHODS = ("auto", "mse", "minmax", "percentile", "kl")


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Options that name the trained weights."""
    command.add_argument("--checkpoint", type=Path, metavar="FILE", help="trained weights of a zoo model")
    command.add_argument("--ema", action="store_true", help="take the averaged (EMA) weights of the checkpoint")


def add_images(command: argparse.ArgumentParser, name: str, told: str = "") -> None:
    """Options that name a dataset: `--NAME`, `--NAME-annotations`, `--NAME-dataset`."""
    command.add_argument(f"--{name}", type=Path, metavar="IMAGES_DIR", help=told or None)
    command.add_argument(f"--{name}-annotations", type=Path, metavar="PATH", help="truths (default: none are read)")
    command.add_argument(
        f"--{name}-dataset", choices=discover.names("datasets"),
        help=f"(default: {ANNOTATED} with annotations, a folder of photos without)",
    )  # fmt: skip


def add_draw(command: argparse.ArgumentParser) -> None:
    """Options that take a part of a dataset to measure on."""
    command.add_argument("--limit", type=count, metavar="N", help="measure on N images, drawn at random, by class")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (default 0)")


def add_calibration(command: argparse.ArgumentParser) -> None:
    """Options of the calibration set."""
    add_images(command, "calibration", "images that set the int8 ranges")
    command.add_argument("--calibration-size", type=count, default=64, metavar="N", help="samples (default 64)")
    command.add_argument(
        "--calibration-method",
        default=METHODS[0],
        choices=METHODS,
        help="how thresholds are chosen (default auto: the method with the least noise at the outputs)",
    )


def add_processor(command: argparse.ArgumentParser) -> None:
    """The option that names the kind of processor an int8 artifact is for."""
    command.add_argument(
        "--for-processor", "--for", dest="processor", type=_processor, default="any", metavar="KIND",
        help=f"kind of processor that int8 is for: {', '.join(PROCESSORS)} (default any: weights have 7 bits where the "
             "sums of 8-bit ones saturate on x86 without VNNI)",
    )  # fmt: skip


def _processor(name: str) -> Processor:
    try:
        return find_processor(name)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{error.message} ({error.fix})") from None


class Once(argparse.Action):
    """An option of one value that is refused where it is given again: the last one alone would count, silently."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Keep the value, or end with the parser's error."""
        if getattr(namespace, self.dest, None) is not None:
            raise argparse.ArgumentError(self, "may be given once; run the command for each value")
        setattr(namespace, self.dest, values)


class Progress:
    """A line on the terminal that rewrites itself; silent where standard error is no terminal."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            end = "\n" if done >= total else ""
            print(f"\r{self.label}: {done}/{total}", end=end, file=sys.stderr, flush=True)


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def write_result(path: Path | None, value: Any) -> None:
    """Write a result as JSON where a file was asked for."""
    from sandglass.core.files import write_json

    if path is not None:
        write_json(path, value)


def count(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
