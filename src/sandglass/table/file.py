"""The TOML file of a table: models down, backends and precisions across. The fields are described in docs/table.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta, field

from sandglass.artifacts.target import Target
from sandglass.backends import load_backend
from sandglass.core import discover
from sandglass.core.errors import InputError, shown
from sandglass.core.files import is_plain_name
from sandglass.core.records import Record, read_toml_record
from sandglass.datasets import Dataset, load_dataset
from sandglass.datasets._photos import load_photos
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.thresholds import AUTO, METHODS
from sandglass.search.budget import Budget
from sandglass.sources.card import Card, zoo
from sandglass.sources.load_card import load_card
from sandglass.tasks import Task, load_task

HELP = "see docs/table.md"

Positive = Annotated[int, Meta(ge=1)]
MaxDrop = Annotated[
    Annotated[float, Meta(ge=0, le=100)] | None, Meta(description="int8 is searched for: the most points it may lose")
]
MinFidelity = Annotated[
    Annotated[float, Meta(ge=0, le=1)] | None, Meta(description="the least agreement with fp32 that a search keeps")
]
Images = Annotated[Path | None, Meta(description="folder or file, relative to the table")]
Annotations = Annotated[Path | None, Meta(description="relative to the table")]


class DataEntry(Record, frozen=True):
    """The dataset that a row is evaluated on, with the options of the command line."""

    dataset: str
    images: Images = None
    annotations: Annotations = None
    detections: Annotations = None
    limit: Annotated[Positive | None, Meta(description="images, drawn by the seed (default all)")] = None
    seed: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="of the draw")] = None

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown dataset."""
        _check_known("dataset is", self.dataset, discover.names("datasets"))

    def load(self) -> Dataset:
        """The dataset; raises DatasetError."""
        names = ("images", "annotations", "detections", "limit", "seed")
        options = {name: value for name in names if (value := getattr(self, name)) is not None}
        return load_dataset(self.dataset, **options)


class CalibrationEntry(Record, frozen=True):
    """The images that int8 is calibrated on: a dataset, or a folder of photos if no dataset is named."""

    dataset: Annotated[str | None, Meta(description="format of the images (default: a folder of photos)")] = None
    images: Images = None
    annotations: Annotations = None
    size: Annotated[Positive, Meta(description="samples")] = 64
    method: Annotated[str, Meta(description="of thresholds")] = AUTO

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown dataset or method, and for annotations of no dataset."""
        if self.dataset is not None:
            _check_known("dataset is", self.dataset, discover.names("datasets"))
        elif self.images is None or self.annotations is not None:
            raise ValueError("without a dataset it needs images, a folder of photos, and no annotations")
        _check_known("method is", self.method, (AUTO, *METHODS))

    def load(self, task: Task) -> Calibration:
        """The calibration set for a task; raises DatasetError."""
        if self.dataset is None and self.images is not None:
            return Calibration(load_photos(task.READS, self.images, self.size), self.size, self.method)
        paths = {name: path for name in ("images", "annotations") if (path := getattr(self, name)) is not None}
        dataset = load_dataset(str(self.dataset), **paths, split="train", limit=self.size)
        return Calibration(dataset, self.size, self.method)


class RowEntry(Record, frozen=True, kw_only=True):
    """One model with its data, as the file has it."""

    model: Annotated[str, Meta(description="a zoo name, a model card, or an OpenMMLab config")]
    checkpoint: Annotated[Path | None, Meta(description="trained weights, relative to the table")] = None
    ema: Annotated[bool, Meta(description="take the averaged weights of the checkpoint")] = False
    data: DataEntry
    calibration: CalibrationEntry | None = None
    max_drop: MaxDrop = None
    min_fidelity: MinFidelity = None


class TableFile(Record, frozen=True, kw_only=True):
    """The content of a table's file: every row is made for each of `backends` in each of `precisions`."""

    backends: Annotated[list[str], Meta(min_length=1)]
    precisions: Annotated[list[str], Meta(min_length=1)] = field(default_factory=lambda: ["fp32", "int8"])
    max_drop: MaxDrop = None
    min_fidelity: MinFidelity = None
    row: Annotated[list[RowEntry], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown backend, and for a precision that none of the backends has."""
        for name in self.backends:
            _check_known("backends has", name, discover.names("backends"))
        known = {precision for name in self.backends for precision in load_backend(name).PRECISIONS}
        for precision in self.precisions:
            _check_known("precisions has", precision, sorted(known))


@dataclass(frozen=True)
class Row:
    """One model with its data. `budget` is None where int8 is not searched for but all layers are in it.

    `ema` takes the averaged weights of the checkpoint. Without `calibration` there is no int8.
    """

    card: Card
    checkpoint: Path | None
    data: DataEntry
    calibration: CalibrationEntry | None = None
    budget: Budget | None = None
    ema: bool = False

    def load_data(self) -> Dataset:
        """The dataset to evaluate on; raises DatasetError."""
        return self.data.load()

    def load_calibration(self) -> Calibration | None:
        """The calibration set, None where the row has none; raises DatasetError."""
        return self.calibration.load(load_task(self.card.task)) if self.calibration else None


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

    Raises InputError naming the file, the field and the value for what is missing, unknown or of the wrong type, and
    for two rows of one name.
    """
    content = read_toml_record(path, TableFile, "table", InputError, HELP)
    rows = tuple(_row(f"{path}: row[{i}]", path.parent, entry, content) for i, entry in enumerate(content.row))
    names = [row.card.name for row in rows]
    if wrong := [name for name in names if not is_plain_name(name)]:
        raise InputError(f"{path}: a row has the model {wrong[0]!r}, whose name cannot be the name of its folder", HELP)
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: two rows have the model {twice[0]!r}, expected each once", HELP)
    return Table(rows, tuple(dict.fromkeys(content.backends)), tuple(dict.fromkeys(content.precisions)))


def _row(where: str, folder: Path, entry: RowEntry, table: TableFile) -> Row:
    card = _card(where, folder, entry.model)
    return Row(card, entry.checkpoint, entry.data, entry.calibration, _budget(where, card, entry, table), entry.ema)


def _card(where: str, folder: Path, model: str) -> Card:
    try:
        return load_card(model if model in zoo() else folder / model)
    except InputError as error:
        raise InputError(f"{where}.model is {shown(model)}: {error.message}", HELP) from error


def _budget(where: str, card: Card, entry: RowEntry, table: TableFile) -> Budget | None:
    """The budget of a row: its own fields, else those of the table, else the least fidelity of the task."""
    drop = table.max_drop if entry.max_drop is None else entry.max_drop
    fidelity = table.min_fidelity if entry.min_fidelity is None else entry.min_fidelity
    if drop is not None:
        return Budget.of_task(load_task(card.task), drop, min_fidelity=fidelity)
    if fidelity is not None:
        raise InputError(f"{where}: min_fidelity is part of a search, expected max_drop with it", HELP)
    return None


def _check_known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} {shown(value)}, expected one of {', '.join(known)}")
