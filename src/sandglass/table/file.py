"""The TOML file of a table of models, backends and precisions. docs/table.md describes the fields."""

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
    Annotated[float, Meta(ge=0, le=100)] | None,
    Meta(description="largest drop of the metric in points (hundredths); starts a search for the fastest int8"),
]
MinFidelity = Annotated[
    Annotated[float, Meta(ge=0, le=1)] | None,
    Meta(description="smallest agreement with fp32 that the search must keep, 0 to 1"),
]
Images = Annotated[Path | None, Meta(description="folder or file, relative to the table")]
Annotations = Annotated[Path | None, Meta(description="relative to the table")]


class DataEntry(Record, frozen=True):
    """The dataset for the evaluation of a row. The fields are the options of `sandglass evaluate`."""

    dataset: str
    images: Images = None
    annotations: Annotations = None
    detections: Annotations = None
    limit: Annotated[Positive | None, Meta(description="number of images, a random subset (default: all)")] = None
    seed: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="random seed of the subset (default: 0)")] = (
        None
    )

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown dataset."""
        _check_known("dataset is", self.dataset, discover.names("datasets"))

    def load(self) -> Dataset:
        """Load the dataset. Raises DatasetError for missing or damaged files."""
        names = ("images", "annotations", "detections", "limit", "seed")
        options = {name: value for name in names if (value := getattr(self, name)) is not None}
        return load_dataset(self.dataset, **options)


class CalibrationEntry(Record, frozen=True):
    """The images for the calibration of int8: a dataset, or a folder of photos if no dataset is named."""

    dataset: Annotated[str | None, Meta(description="format of the images (default: a folder of photos)")] = None
    images: Images = None
    annotations: Annotations = None
    size: Annotated[Positive, Meta(description="number of samples (default: 64)")] = 64
    method: Annotated[str, Meta(description="method for the thresholds (default: auto)")] = AUTO

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown dataset or method, and for annotations of no dataset."""
        if self.dataset is not None:
            _check_known("dataset is", self.dataset, discover.names("datasets"))
        elif self.images is None or self.annotations is not None:
            raise ValueError("without a dataset it needs images, a folder of photos, and no annotations")
        _check_known("method is", self.method, (AUTO, *METHODS))

    def load(self, task: Task) -> Calibration:
        """Load the calibration set for a task. Raises DatasetError for missing or damaged files."""
        if self.dataset is None and self.images is not None:
            return Calibration(load_photos(task.READS, self.images, self.size), self.size, self.method)
        paths = {name: path for name in ("images", "annotations") if (path := getattr(self, name)) is not None}
        dataset = load_dataset(str(self.dataset), **paths, split="train", limit=self.size)
        return Calibration(dataset, self.size, self.method)


class RowEntry(Record, frozen=True, kw_only=True):
    """One model with its data, as written in the file."""

    model: Annotated[str, Meta(description="a zoo name, a model card, or an OpenMMLab config")]
    checkpoint: Annotated[Path | None, Meta(description="trained weights, relative to the table")] = None
    ema: Annotated[bool, Meta(description="use the averaged (EMA) weights of the checkpoint")] = False
    data: DataEntry
    calibration: CalibrationEntry | None = None
    max_drop: MaxDrop = None
    min_fidelity: MinFidelity = None


class TableFile(Record, frozen=True, kw_only=True):
    """The content of a table's file: each model in `row` is built for each of `backends` in each of `precisions`."""

    backends: Annotated[list[str], Meta(min_length=1)]
    precisions: Annotated[list[str], Meta(min_length=1)] = field(default_factory=lambda: ["fp32", "int8"])
    max_drop: MaxDrop = None
    min_fidelity: MinFidelity = None
    row: Annotated[list[RowEntry], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown backend, and for a precision that no listed backend supports."""
        for name in self.backends:
            _check_known("backends has", name, discover.names("backends"))
        known = {precision for name in self.backends for precision in load_backend(name).PRECISIONS}
        for precision in self.precisions:
            _check_known("precisions has", precision, sorted(known))


@dataclass(frozen=True)
class Row:
    """One model with its data.

    With a `budget`, int8 is the result of a search. Without one, every layer that can run in int8 does. Without
    `calibration` there are no int8 cells. `ema` selects the averaged weights of the checkpoint.
    """

    card: Card
    checkpoint: Path | None
    data: DataEntry
    calibration: CalibrationEntry | None = None
    budget: Budget | None = None
    ema: bool = False

    def load_data(self) -> Dataset:
        """Load the dataset for the evaluation. Raises DatasetError for missing or damaged files."""
        return self.data.load()

    def load_calibration(self) -> Calibration | None:
        """Load the calibration set; None if the row has none. Raises DatasetError for missing or damaged files."""
        return self.calibration.load(load_task(self.card.task)) if self.calibration else None


@dataclass(frozen=True)
class Table:
    """A table: each of `rows` is built for each of `backends` in each of `precisions`."""

    rows: tuple[Row, ...]
    backends: tuple[str, ...]
    precisions: tuple[str, ...]

    def targets(self) -> list[Target]:
        """All pairs of a backend and a precision."""
        return [Target(backend, precision) for backend in self.backends for precision in self.precisions]


def read_table(path: Path) -> Table:
    """Read a table's file. Paths in it are relative to its folder.

    Raises InputError, with the file, the field and the value, for a missing or unknown field, a value of the wrong
    type, and two rows with the same model.
    """
    content = read_toml_record(path, TableFile, "table", InputError, HELP)
    rows = tuple(_row(f"{path}: row[{i}]", path.parent, entry, content) for i, entry in enumerate(content.row))
    names = [row.card.name for row in rows]
    if wrong := [name for name in names if not is_plain_name(name)]:
        raise InputError(
            f"{path}: the model name {wrong[0]!r} cannot be the name of a folder", "change `name` in the model card"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"{path}: two rows have the model {twice[0]!r}", "remove one row, or change `name` in one of the cards"
        )
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
    """The budget of a row: its own fields, or those of the table; the default fidelity is that of the task."""
    drop = table.max_drop if entry.max_drop is None else entry.max_drop
    fidelity = table.min_fidelity if entry.min_fidelity is None else entry.min_fidelity
    if drop is not None:
        return Budget.of_task(load_task(card.task), drop, min_fidelity=fidelity)
    if fidelity is not None:
        raise InputError(f"{where}: min_fidelity has no effect without max_drop", "add max_drop, or remove it")
    return None


def _check_known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} {shown(value)}, expected one of {', '.join(known)}")
