"""The files of a table's cells: `cell.json` in the folder of each, and `speed-BACKEND.json` of the cells of a backend.

A file that does not fit its record, for example one that another version wrote, is as good as none: the cell is made
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from msgspec import field

from sandglass.artifacts.tuned_settings import Setting
from sandglass.core.errors import ArtifactError
from sandglass.core.files import read_json, write_json
from sandglass.core.json_values import JsonObject
from sandglass.core.records import Record, to_data, to_record
from sandglass.measure.benchmarking import Speed
from sandglass.measure.evaluation import Evaluation
from sandglass.metrics import Metric
from sandglass.tasks import Prediction

CELL, SPEED = "cell.json", "speed-{}.json"
AGAIN = "remove it, and run the command again"


class Asked(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What a cell follows from: a cell is made again when it is asked for with other values.

    `files` are the hashes of the model's files, `data` is the fingerprint of the dataset. `calibration` is fingerprint,
    size, method and seed, and `budget` the most points and the least fidelity of a search.
    """

    card: JsonObject
    files: list[str]
    data: str
    ema: bool = False
    calibration: tuple[str, int, str, int] | None = None
    budget: tuple[float, float] | None = None


class EmptyCell(Record, frozen=True):
    """A cell without a result, and why."""

    asked: Asked
    reason: str


class MeasuredCell(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A cell with the evaluation of its artifact.

    `metrics` are by name. `verdict` and `int8_share_of_macs` are those of a search.
    """

    asked: Asked
    model: str
    input: tuple[int, int]
    backend: str
    precision: str
    shapes: list[tuple[int, int, int]] = field(default_factory=list)
    metrics: dict[str, Metric]
    samples: int
    protocol: JsonObject
    origin: JsonObject
    seconds: float
    resumed_samples: int
    predictions: list[JsonObject] = field(default_factory=list)
    verdict: str = ""
    int8_share_of_macs: float | None = None

    @property
    def task_predictions(self) -> list[Prediction]:
        """The predictions as those of the task, which adds fields to the ones that all tasks have."""
        return cast("list[Prediction]", self.predictions)

    @property
    def artifact_sha256(self) -> str:
        """The hash of the artifact that was evaluated."""
        return str(self.origin.get("artifact_sha256", ""))

    def results(self) -> JsonObject:
        """The evaluation as JSON-able data, without its predictions."""
        return {name: value for name, value in to_data(self).items() if name not in ("asked", "predictions")}


class Latency(Record, frozen=True):
    """Milliseconds of one run."""

    median: float
    p90: float
    p99: float
    minimum: float


class Timing(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The speed of an artifact, with the conditions under which it was measured."""

    model: str
    input: tuple[int, int]
    images_in_shape: int | None = None
    backend: str
    precision: str
    latency_ms: Latency
    images_per_second: float
    peak_memory_mib: float
    runs: int
    threads: int
    batch: int
    settings: dict[str, Setting]
    artifact_sha256: str
    host: JsonObject
    command: str


def measured_cell(asked: Asked, evaluation: Evaluation, verdict: str = "", share: float | None = None) -> MeasuredCell:
    """The record of an evaluation, with the verdict and the share of work in int8 of a search."""
    fields = {**evaluation.to_dict(), "predictions": evaluation.predictions, "asked": to_data(asked)}
    search = {"verdict": verdict, "int8_share_of_macs": share}
    return to_record({**fields, **search}, MeasuredCell, CELL, ArtifactError, AGAIN)


def timing(speed: Speed) -> Timing:
    """The record of a measured speed."""
    return to_record(speed.to_dict(), Timing, "speed", ArtifactError, AGAIN)


def write_cell(folder: Path, cell: EmptyCell | MeasuredCell) -> None:
    """Write the file of the cell in `folder`."""
    write_json(folder / CELL, to_data(cell))


def read_cell(folder: Path) -> EmptyCell | MeasuredCell | None:
    """The cell in `folder`; None where there is none, or its file does not fit."""
    path = folder / CELL
    try:
        data = read_json(path, ArtifactError)
        if isinstance(data, dict) and "reason" in data:
            return to_record(data, EmptyCell, str(path), ArtifactError, AGAIN)
        return to_record(data, MeasuredCell, str(path), ArtifactError, AGAIN)
    except ArtifactError:
        return None


def write_timings(path: Path, timings: Sequence[Timing]) -> None:
    """Write the speeds of the cells of a backend."""
    write_json(path, [to_data(entry) for entry in timings])


def read_timings(path: Path) -> list[Timing]:
    """The speeds of the cells of a backend; none where there is no such file, or it does not fit."""
    try:
        data = read_json(path, ArtifactError)
        entries = data if isinstance(data, list) else []
        return [to_record(entry, Timing, str(path), ArtifactError, AGAIN) for entry in entries]
    except ArtifactError:
        return []
