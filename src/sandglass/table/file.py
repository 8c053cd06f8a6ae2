"""The TOML file of a table: models down, backends and precisions across. The fields are described in docs/table.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sandglass.artifacts.target import Target
from sandglass.core import discover
from sandglass.core.errors import InputError
from sandglass.core.files import is_plain_name
from sandglass.core.toml_fields import Fields, read_toml
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.thresholds import AUTO, METHODS
from sandglass.search.budget import Budget
from sandglass.sources.card import Card, zoo
from sandglass.sources.load_card import load_card

HELP = "see docs/table.md"
PATHS = ("images", "annotations", "detections")
DATA = ("dataset", *PATHS, "limit", "seed")
CALIBRATION = ("dataset", *PATHS[:2], "size", "method")
BUDGET = {"max_drop": 100.0, "min_fidelity": 1.0}  # and the most that each may be
ROW = ("model", "checkpoint", "ema", "data", "calibration", *BUDGET)
TABLE = ("backends", "precisions", *BUDGET, "row")
PRECISIONS = ["fp32", "int8"]  # where none are named


@dataclass(frozen=True)
class Row:
    """One model with its data. `budget` is None where int8 is not searched for but all layers are in it.

    `ema` takes the averaged weights of the checkpoint.
    """

    card: Card
    checkpoint: Path | None
    dataset: str
    data: dict[str, Any]
    calibration: dict[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    ema: bool = False

    def load_data(self) -> Any:
        """The dataset to evaluate on; raises DatasetError."""
        return discover.load("datasets", self.dataset).load(**self.data)

    def load_calibration(self) -> Calibration | None:
        """The calibration set, None where the row has none; raises DatasetError."""
        if not self.calibration:
            return None
        given = dict(self.calibration)
        name, size, method = given.pop("dataset"), given.pop("size", 64), given.pop("method", AUTO)
        dataset = discover.load("datasets", name).load(**given, split="train", limit=size)
        return Calibration(dataset, size, method)


@dataclass(frozen=True)
class Table:
    """Every row is made for each of `backends` in each of `precisions`."""

    rows: tuple[Row, ...]
    backends: tuple[str, ...]
    precisions: tuple[str, ...]

    def targets(self) -> list[Target]:
        """Backends and precisions, each with each."""
        return [Target(backend, precision) for backend in self.backends for precision in self.precisions]


def read_table(path: Path) -> Table:
    """Read a table's file; paths in it are relative to its folder.

    Raises InputError naming the file, the key and the value for what is missing, unknown or of the wrong type, and
    for two rows of one name.
    """
    return _Reader(str(path), path.parent).table(read_toml(path, "table", InputError, HELP))


class _Reader(Fields):
    """`where` is the file and the part of it that is read."""

    def __init__(self, where: str, folder: Path) -> None:
        super().__init__(where, InputError, HELP)
        self.folder = folder

    def inside(self, name: str) -> _Reader:
        """The reader of a part."""
        return _Reader(f"{self.where}, {name}", self.folder)

    def table(self, data: Mapping[str, Any]) -> Table:
        self.only(data, TABLE, "the table")
        backends = self.names(data, "backends", discover.names("backends"))
        known = {precision for name in backends for precision in discover.load("backends", name).PRECISIONS}
        precisions = self.names({"precisions": PRECISIONS, **data}, "precisions", sorted(known))
        entries = self.get(data, "row", list)
        if not entries or not all(isinstance(entry, dict) for entry in entries):
            raise self.fail(f"row is {entries!r}, expected one [[row]] or more")
        shared = {key: data[key] for key in BUDGET if key in data}
        rows = tuple(self.inside(f"row {number}").row({**shared, **entry}) for number, entry in enumerate(entries, 1))
        names = [row.card.name for row in rows]
        if wrong := [name for name in names if not is_plain_name(name)]:
            raise self.fail(f"a row has the model {wrong[0]!r}, whose name cannot be the name of its folder")
        if twice := [name for name in names if names.count(name) > 1]:
            raise self.fail(f"two rows have the model {twice[0]!r}, expected each once")
        return Table(rows, backends, precisions)

    def names(self, data: Mapping[str, Any], key: str, known: list[str]) -> tuple[str, ...]:
        values = self.get(data, key, list)
        if not values or (unknown := [value for value in values if value not in known]):
            raise self.fail(f"{key} has {unknown[0]!r}, known: {', '.join(known)}" if values else f"{key} is empty")
        return tuple(dict.fromkeys(values))

    def row(self, entry: Mapping[str, Any]) -> Row:
        self.only(entry, ROW, "a row")
        checkpoint, calibration = self.get(entry, "checkpoint", str, None), self.get(entry, "calibration", dict, None)
        data = self.inside("data").dataset(self.get(entry, "data", dict), DATA)
        card = self.card(self.get(entry, "model", str))
        return Row(
            card=card,
            checkpoint=None if checkpoint is None else self.folder / checkpoint,
            dataset=data.pop("dataset"),
            data=data,
            calibration=self.inside("calibration").dataset(calibration, CALIBRATION) if calibration else {},
            ema=self.get(entry, "ema", bool, False),
            budget=self.budget(entry, discover.load("tasks", card.task)),
        )

    def card(self, model: str) -> Card:
        try:
            return load_card(model if model in zoo() else self.folder / model)
        except InputError as error:
            raise self.fail(f"model is {model!r}: {error.message}") from error

    def dataset(self, table: Mapping[str, Any], allowed: tuple[str, ...]) -> dict[str, Any]:
        """A dataset and its options, with paths."""
        self.only(table, allowed, "it")
        name, known = self.get(table, "dataset", str), discover.names("datasets")
        if name not in known:
            raise self.fail(f"dataset is {name!r}, known: {', '.join(known)}")
        for key, least in (("limit", 1), ("size", 1), ("seed", 0)):
            if key in table and (type(table[key]) is not int or table[key] < least):
                raise self.fail(f"{key} is {table[key]!r}, expected a whole number of {least} or more")
        if table.get("method", AUTO) not in (AUTO, *METHODS):
            raise self.fail(f"method is {table['method']!r}, expected one of {', '.join((AUTO, *METHODS))}")
        return {**table, **{key: self.folder / self.get(table, key, str) for key in PATHS if key in table}}

    def budget(self, entry: Mapping[str, Any], task: ModuleType) -> Budget | None:
        for key, most in BUDGET.items():
            value = entry.get(key, 0.0)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
                raise self.fail(f"{key} is {value!r}, expected a number from 0 to {most:g}")
        if "min_fidelity" in entry and "max_drop" not in entry:
            raise self.fail("min_fidelity is part of a search, expected max_drop beside it")
        if "max_drop" not in entry:
            return None
        return Budget.of_task(task, entry["max_drop"], min_fidelity=entry.get("min_fidelity"))
