"""Model cards: TOML files that say what a model is. Zoo models and a user's own ONNX files share one format.

The fields are described in docs/model-card.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from sandglass.core import discover
from sandglass.core.errors import CardError, shown
from sandglass.core.files import is_plain_name
from sandglass.core.toml_fields import Fields, excess

ZOO = Path(__file__).parent / "cards"
MOST_PIXELS = 1 << 26  # of an input: as float32 it takes 0.8 GB
HELP = "see docs/model-card.md"


@dataclass(frozen=True)
class Input:
    """What the network eats: RGB or BGR pixels of 0..255, `(pixel - mean) / std`, resized to `size`."""

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "rgb"


@dataclass(frozen=True)
class Checkpoint:
    """Where trained weights are published: file name, addresses, and SHA-256 (or its first hex digits)."""

    file: str
    urls: tuple[str, ...] = ()
    sha256: str = ""


@dataclass(frozen=True)
class Card:
    """A parsed model card. Exactly one of `model` (an architecture of Sandglass) and `graph` (an ONNX file) is set."""

    name: str
    task: str
    input: Input
    model: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    graph: Path | None = None
    decode: dict[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    published: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON-able data; `from_dict` reads it back."""
        data = {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, {})}
        if self.graph:
            data["graph"] = self.graph.name
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any], where: str, folder: Path | None = None) -> Card:
        """Check and convert the fields of a card; `where` names the file in errors, `folder` anchors its paths."""
        return _Reader(data, where).card(folder)


def zoo() -> dict[str, Path]:
    """Cards shipped with Sandglass: name to path."""
    return {path.stem: path for path in sorted(ZOO.glob("*.toml"))}


class _Reader(Fields):
    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        super().__init__(where, CardError, HELP)
        self.data = data

    def numbers(self, table: Mapping[str, Any], key: str, count: int, positive: bool = False) -> tuple[Any, ...]:
        values = self.get(table, key, (list, tuple))
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in values)
        if len(values) != count or not numeric or (positive and min(values) <= 0):
            raise self.fail(f"{key} is {shown(values)}, expected {count} {'positive ' if positive else ''}numbers")
        return tuple(values)

    def card(self, folder: Path | None) -> Card:
        if not isinstance(self.data, Mapping):
            raise self.fail("a card is a table of fields")
        if problem := excess(self.data):
            raise self.fail(f"the card {problem}")
        self.only(self.data, {f.name for f in dataclasses.fields(Card)}, "the card")
        model, graph = self.get(self.data, "model", str, None), self.get(self.data, "graph", str, None)
        if (model is None) == (graph is None):
            raise self.fail("a card has either `model` (an architecture) or `graph` (an ONNX file)")
        for seam, name in (("tasks", self.get(self.data, "task", str)), ("models", model)):
            if name is not None and name not in discover.names(seam):
                raise self.fail(f"unknown {seam[:-1]} {shown(name)}, known: {', '.join(discover.names(seam))}")
        return Card(
            name=self.name(),
            task=self.data["task"],
            input=self.input(self.get(self.data, "input", dict)),
            model=model,
            arguments=self.get(self.data, "arguments", dict, {}),
            graph=None if graph is None else (folder or Path()) / graph,
            decode=self.decode(self.get(self.data, "decode", dict, {})),
            checkpoint=self.checkpoint(self.get(self.data, "checkpoint", dict, None)),
            published=self.get(self.data, "published", dict, {}),
        )

    def name(self) -> str:
        """A name that is one too in a folder: tables and artifacts are kept under it."""
        name: str = self.get(self.data, "name", str)
        if not name.strip(". ") or any(letter in "/\\" or not letter.isprintable() for letter in name):
            raise self.fail(f"name is {shown(name)}, expected letters without slashes")
        return name

    def input(self, table: Mapping[str, Any]) -> Input:
        self.only(table, {f.name for f in dataclasses.fields(Input)}, "[input]")
        size = self.numbers(table, "size", 2, positive=True)
        if not all(isinstance(side, int) for side in size):
            raise self.fail(f"size is {list(size)!r}, expected whole numbers: height, width")
        if size[0] * size[1] > MOST_PIXELS:
            raise self.fail(f"size is {list(size)!r}, expected at most {MOST_PIXELS} pixels")
        channels = self.get(table, "channels", str, "rgb")
        if channels not in ("rgb", "bgr"):
            raise self.fail(f"channels is {shown(channels)}, expected 'rgb' or 'bgr'")
        std = self.numbers(table, "std", 3, positive=True)
        return Input(size=(size[0], size[1]), mean=self.numbers(table, "mean", 3), std=std, channels=channels)

    def decode(self, table: dict[str, Any]) -> dict[str, Any]:
        """The task says which fields it has: the type of each, or the values that it may have."""
        known: Mapping[str, Any] = discover.load("tasks", self.data["task"]).DECODE
        self.only(table, set(known), "[decode]")
        for key, kind in known.items():
            if isinstance(kind, tuple):
                if table.get(key, kind[0]) not in kind:
                    raise self.fail(f"{key} is {shown(table[key])}, expected one of {', '.join(map(str, kind))}")
            else:
                self.get(table, key, (int, float) if kind is float else kind, None)
        return table

    def checkpoint(self, table: Mapping[str, Any] | None) -> Checkpoint | None:
        if table is None:
            return None
        self.only(table, {f.name for f in dataclasses.fields(Checkpoint)}, "[checkpoint]")
        file, urls = self.get(table, "file", str), self.get(table, "urls", (list, tuple), ())
        if not is_plain_name(file):
            raise self.fail(f"the checkpoint's file is {shown(file)}, expected a plain file name, without a path")
        if wrong := [url for url in urls if not isinstance(url, str)]:
            raise self.fail(f"urls has {shown(wrong[0])}, expected addresses")
        return Checkpoint(file, tuple(urls), self.get(table, "sha256", str, ""))
