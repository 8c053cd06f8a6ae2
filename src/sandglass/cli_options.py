"""What several subcommands share: options and their types, progress lines, results as JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandglass import discover

if TYPE_CHECKING:
    from sandglass.calibration import Calibration

METHODS = ("kl", "mse", "minmax", "percentile")


def add_images(command: argparse.ArgumentParser, name: str, told: str = "") -> None:
    """Options that name a dataset: `--NAME`, `--NAME-annotations`, `--NAME-dataset`."""
    command.add_argument(f"--{name}", type=Path, metavar="IMAGES_DIR", help=told or None)
    command.add_argument(f"--{name}-annotations", type=Path, metavar="PATH")
    command.add_argument(f"--{name}-dataset", default="coco-keypoints", choices=discover.names("datasets"))


def add_draw(command: argparse.ArgumentParser) -> None:
    """Options that take a part of a dataset to measure on."""
    command.add_argument("--limit", type=count, metavar="N", help="measure on N images, drawn at random, by class")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (default 0)")


def add_calibration(command: argparse.ArgumentParser) -> None:
    """Options of the calibration set."""
    add_images(command, "calibration", "images that set the int8 ranges")
    command.add_argument("--calibration-size", type=count, default=64, metavar="N", help="samples (default 64)")
    command.add_argument("--calibration-method", default="kl", choices=METHODS, help="(default kl)")


def load_calibration(arguments: argparse.Namespace) -> Calibration | None:
    """The calibration set that was asked for; None where none was."""
    if arguments.calibration is None and arguments.calibration_dataset == "coco-keypoints":
        return None
    return needed_calibration(arguments)


def needed_calibration(arguments: argparse.Namespace) -> Calibration:
    """The calibration set; raises DatasetError where none was asked for."""
    from sandglass.calibration import Calibration

    dataset = discover.load("datasets", arguments.calibration_dataset).load(
        images=arguments.calibration,
        annotations=arguments.calibration_annotations,
        split="train",
        limit=arguments.calibration_size,  # every image that is drawn has a person at least
    )
    return Calibration(dataset, arguments.calibration_size, arguments.calibration_method)


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
    from sandglass.files import write_json

    if path is not None:
        write_json(path, value)


def count(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdigit() or int(text) < 1:
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
