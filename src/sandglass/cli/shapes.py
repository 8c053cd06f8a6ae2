"""What the command line says of input shapes: options of `deploy`, and the table of `benchmark`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from sandglass.cli.options import count, say

if TYPE_CHECKING:
    from sandglass.measure.benchmarking import Speed
    from sandglass.sources.card import Card
    from sandglass.table.markdown import Row

Sizes = list[tuple[int, int]]


def add_shapes(command: argparse.ArgumentParser) -> None:
    """Options of `deploy` for images that keep their aspect ratio."""
    wanted = command.add_mutually_exclusive_group()
    wanted.add_argument(
        "--shapes",
        type=_sizes,
        action="extend",
        default=[],
        metavar="HxW,HxW,...",
        help="input shapes; an image runs in the smallest that holds it; may be repeated",
    )
    wanted.add_argument("--shapes-from", type=Path, metavar="IMAGES_DIR", help="those that suit these images best")
    command.add_argument("--max-shapes", type=count, default=36, metavar="K", help="of --shapes-from (default 36)")


def load_shapes(arguments: argparse.Namespace, source: str | Card) -> dict[tuple[int, int], int]:
    """The shapes that were asked for, the one of the graph first; empty where none were."""
    from sandglass.artifacts import input_shapes
    from sandglass.artifacts.find_card import find_card
    from sandglass.sources.card import Card

    if not arguments.shapes and arguments.shapes_from is None:
        return {}
    card = source if isinstance(source, Card) else find_card(source)
    if arguments.shapes_from is None:
        return input_shapes.listed(card, arguments.shapes)
    found, wasted = input_shapes.of_images(card, arguments.shapes_from, arguments.max_shapes)
    told = ", ".join(f"{input_shapes.text(size)} ({images})" for size, images in found.items())
    say(f"shapes: {len(found)} for {sum(found.values())} images, {100 * wasted:.1f} % more pixels than needed: {told}")
    return found


def speed_rows(speeds: Sequence[Speed]) -> list[Row]:
    """A row for each measurement; after those of an artifact's shapes the mean over the images they were chosen for."""
    from sandglass.measure.benchmarking import mean_throughput
    from sandglass.table.markdown import identity, speed_row

    fastest = min(speed.median for speed in speeds)
    rows: list[Row] = []
    for artifact, group in groupby(speeds, key=lambda speed: speed.artifact):
        found = list(group)
        rows += [speed_row(speed, fastest) for speed in found]
        mean = mean_throughput(found)
        if mean is not None:
            images = str(sum(artifact.shapes.values()))
            rows.append({**identity(artifact), "input": "all, weighted", "images": images, "images/s": f"{mean:.1f}"})
    return rows


def _sizes(text: str) -> Sizes:
    parts = text.split(",")
    for part in parts:
        if not re.fullmatch(r"\d+x\d+", part):
            raise argparse.ArgumentTypeError(f"{part!r} is not HEIGHTxWIDTH, such as 512x768")
    sizes = [(int(height), int(width)) for height, width in (part.split("x") for part in parts)]
    return list(dict.fromkeys(sizes))
