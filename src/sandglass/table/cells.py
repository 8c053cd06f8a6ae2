"""The files of a table's cells: `cell.json` in each cell's folder, and `speed-BACKEND.json` for the cells of a backend.

A file that does not fit its record, for example one of another version, is ignored, and the cell is measured again.
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


class CellInputs(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The inputs of a cell. A cell is measured again if one of them changes.

    `files` are the SHA-256 hashes of the model's files, and `data` is the fingerprint of the dataset. `calibration` is
    (fingerprint, size, method, seed). `budget` is (largest drop in points, smallest fidelity) of a search.
    """

    card: JsonObject
    files: list[str]
    data: str
    ema: bool = False
    calibration: tuple[str, int, str, int] | None = None
    budget: tuple[float, float] | None = None


class EmptyCell(Record, frozen=True):
    """A cell without a result, with the reason."""

    inputs: CellInputs = field(name="asked")
    reason: str


class MeasuredCell(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A cell with the evaluation of its artifact.

    `metrics` has the metrics by name. `verdict` and `int8_share_of_macs` (0 to 1) are the results of a search.
    """

    inputs: CellInputs = field(name="asked")
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
        """The predictions with the type of the task's predictions, which have more fields."""
        return cast("list[Prediction]", self.predictions)

    @property
    def artifact_sha256(self) -> str:
        """The hash of the manifest of the evaluated artifact; "" if it is unknown."""
        return str(self.origin.get("artifact_sha256", ""))

    def results(self) -> JsonObject:
        """The evaluation as JSON data, without its predictions."""
        return {name: value for name, value in to_data(self).items() if name not in ("asked", "predictions")}


class Latency(Record, frozen=True):
    """Milliseconds of one run."""

    median: float
    p90: float
    p99: float
    minimum: float


class Timing(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The speed of an artifact, and the conditions of the measurement."""

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


def measured_cell(
    inputs: CellInputs, evaluation: Evaluation, verdict: str = "", share: float | None = None
) -> MeasuredCell:
    """The record of an evaluation. `verdict` and `share` (of multiply-accumulates in int8, 0 to 1) are of a search."""
    fields = {**evaluation.to_dict(), "predictions": evaluation.predictions, "asked": to_data(inputs)}
    search = {"verdict": verdict, "int8_share_of_macs": share}
    return to_record({**fields, **search}, MeasuredCell, CELL, ArtifactError, AGAIN)


def timing(speed: Speed) -> Timing:
    """The record of a measured speed."""
    return to_record(speed.to_dict(), Timing, "speed", ArtifactError, AGAIN)


def write_cell(folder: Path, cell: EmptyCell | MeasuredCell) -> None:
    """Write the file of the cell in `folder`."""
    write_json(folder / CELL, to_data(cell))


def read_cell(folder: Path) -> EmptyCell | MeasuredCell | None:
    """The cell in `folder`, or None if there is no file or the file is invalid."""
    path = folder / CELL
    try:
        data = read_json(path, ArtifactError)
        if isinstance(data, dict) and "reason" in data:
            return to_record(data, EmptyCell, str(path), ArtifactError, AGAIN)
        return to_record(data, MeasuredCell, str(path), ArtifactError, AGAIN)
    except ArtifactError:
        return None


def write_timings(path: Path, timings: Sequence[Timing]) -> None:
    """Write the speeds of a backend's cells to one file."""
    write_json(path, [to_data(entry) for entry in timings])


def read_timings(path: Path) -> list[Timing]:
    """The speeds of a backend's cells; an empty list if there is no file or the file is invalid."""
    try:
        data = read_json(path, ArtifactError)
        entries = data if isinstance(data, list) else []
        return [to_record(entry, Timing, str(path), ArtifactError, AGAIN) for entry in entries]
    except ArtifactError:
        return []
