"""Fill a table of models, backends and precisions. The run is resumable.

Each cell has a folder in `out/MODEL`. `cell.json`, written last, holds its measurements or the reason why it is empty.
A later run repeats only the cells whose model, data or budget changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from sandglass import deployment
from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.target import Target
from sandglass.backends import load_backend
from sandglass.core.errors import (
    ArtifactError,
    BackendUnavailable,
    BudgetError,
    CheckpointError,
    CrashError,
    DatasetError,
    InputError,
    ParityError,
    SandglassError,
    UnsupportedOperator,
)
from sandglass.core.files import sha256, sweep
from sandglass.core.locks import locked_folder
from sandglass.core.progress import Say
from sandglass.datasets import Dataset
from sandglass.measure.benchmarking import benchmark_each
from sandglass.measure.evaluation import Progress, evaluate, has_truths
from sandglass.metrics import Change
from sandglass.quantization.calibration import Calibration, shared_images
from sandglass.search.quantize import quantize
from sandglass.sources.prepare import find_checkpoint
from sandglass.table.cells import (
    SPEED,
    CellInputs,
    EmptyCell,
    MeasuredCell,
    Timing,
    measured_cell,
    read_cell,
    read_timings,
    timing,
    write_cell,
    write_timings,
)
from sandglass.table.file import Row, Table
from sandglass.tasks import load_task

FLOAT = "fp32"
T = TypeVar("T")
REASONS = {
    BackendUnavailable: "not installed",
    UnsupportedOperator: "unsupported operator",
    BudgetError: "budget missed",
    DatasetError: "no data",
    CheckpointError: "no checkpoint",
    ParityError: "wrong outputs",
    CrashError: "crashed",
}
# Another run would end with the same error, so the cell stays empty. After any other error the next run tries again.
LASTING = (UnsupportedOperator, BudgetError, ParityError)
NewProgress = Callable[[str, str], Progress]  # starts the progress of a step: its label, and the unit of its parts


def _silent(label: str, unit: str) -> Progress:
    return lambda done, total: None


@dataclass(frozen=True)
class Cell:
    """The result for one target of a row: a measured artifact, or the reason why there is none.

    `change` is the paired change of each metric against float on the same backend. `reason` says why the cell has no
    artifact, and `speed_reason` why an artifact has no speed.
    """

    target: Target
    artifact: Artifact | None = None
    result: MeasuredCell | None = None
    change: Mapping[str, Change] | None = None
    speed: Timing | None = None
    reason: str = ""
    speed_reason: str = ""


@dataclass(frozen=True)
class Line:
    """A row with its cells, in the order of the table's targets."""

    row: Row
    cells: tuple[Cell, ...]


def deploy_all(table: Table, out: Path, *, say: Say = lambda line: None, progress: NewProgress = _silent) -> list[Line]:
    """Build, evaluate and time each cell that is not in `out` yet. An error in one cell does not stop the others.

    Latencies are measured last; the precisions of a row and backend take turns. `say` gets lines of progress, and
    `progress(label, unit)` returns the function that gets the finished and total parts of a step. Raises BusyError if
    another run works in `out`.
    """
    with locked_folder(out):
        return _deploy_all(table, out, say, progress)


def _deploy_all(table: Table, out: Path, say: Say, progress: NewProgress) -> list[Line]:
    total, number = len(table.rows) * len(table.targets()), 0
    filled: list[tuple[Row, list[Cell]]] = []
    for row in table.rows:
        data, calibration = _loaded(row.load_data), _loaded(row.load_calibration)
        cells = []
        for target in table.targets():
            number += 1
            name = f"{number}/{total} {row.card.name} {target}"
            work = _Work(row, target, out / row.card.name / target.folder, data, calibration)
            cells.append(work.run(name, say, progress(name, "samples")))
        filled.append((row, _with_changes(row, cells, data)))
    return [Line(row, tuple(_with_speeds(cells, out / row.card.name, say, progress))) for row, cells in filled]


def _loaded(load: Callable[[], T]) -> T | SandglassError:
    """The result of `load`, or the error that stopped it."""
    try:
        return load()
    except SandglassError as error:
        return error


def reason(error: SandglassError) -> str:
    """The reason for an empty cell: the kind of error, and the error."""
    return f"{REASONS.get(type(error), 'failed')}: {error}"


@dataclass(frozen=True)
class _Work:
    """One cell to fill in `folder`. `data` and `calibration` hold an error if they could not be loaded."""

    row: Row
    target: Target
    folder: Path
    data: Dataset | SandglassError
    calibration: Calibration | SandglassError | None

    def run(self, name: str, say: Say, progress: Progress) -> Cell:
        """The finished cell in the folder if its inputs did not change; otherwise a new one."""
        try:
            self.check()
            inputs = self.inputs()
            if finished := self.finished(inputs):
                say(f"{name}: finished before")
                return finished
            say(f"{name}: building and evaluating")
            sweep(self.folder)
            artifact, result = self.fill(inputs, say, progress)
        except SandglassError as error:
            say(f"{name}: {reason(error)}")
            if isinstance(error, LASTING):
                write_cell(self.folder, EmptyCell(self.inputs(), reason(error)))
            return Cell(self.target, reason=reason(error))
        write_cell(self.folder, result)
        return Cell(self.target, artifact, result)

    def check(self) -> None:
        """Raise the errors that are known before anything is built."""
        backend = load_backend(self.target.backend)
        if self.target.precision not in backend.PRECISIONS:
            known = ", ".join(backend.PRECISIONS)
            raise InputError(f"{self.target.backend} does not support {self.target.precision}", f"it supports {known}")
        backend.available()
        for loaded in (self.data, self.calibration if self.integer else None):
            if isinstance(loaded, SandglassError):
                raise loaded
        if self.integer and self.calibration is None:
            raise DatasetError("int8 needs calibration images", "add [row.calibration] to the row")

    @property
    def dataset(self) -> Dataset:
        """The dataset for the evaluation. Raises the error that stopped its loading."""
        if isinstance(self.data, SandglassError):
            raise self.data
        return self.data

    @property
    def integer(self) -> bool:
        return self.target.precision == "int8"

    def inputs(self) -> CellInputs:
        """The inputs of the cell. Raises CheckpointError if the weights are missing."""
        card, calibration, budget = self.row.card, self.calibration, self.row.budget
        files = [card.graph, card.graph.with_suffix(".bin")] if card.graph else []
        if card.model:
            files.append(find_checkpoint(card, self.row.checkpoint))
        inputs = CellInputs(
            card=json.loads(json.dumps(card.to_dict())),  # in the form in which it is read from a file
            files=[sha256(file) for file in files if file.is_file()],
            data=self.dataset.fingerprint,
            ema=self.row.ema,
        )
        if not (self.integer and isinstance(calibration, Calibration)):
            return inputs
        return structs.replace(
            inputs,
            calibration=(calibration.dataset.fingerprint, calibration.size, calibration.method, calibration.seed),
            budget=(budget.max_drop, budget.min_fidelity) if budget else None,
        )

    def finished(self, inputs: CellInputs) -> Cell | None:
        """The finished cell; None if there is none, if it has other inputs, or if its artifact was replaced."""
        cell = read_cell(self.folder)
        if cell is None or cell.inputs != inputs:
            return None
        if isinstance(cell, EmptyCell):
            return Cell(self.target, reason=cell.reason)
        try:
            artifact = load_artifact(self.folder / self.target.folder)
        except ArtifactError:
            return None
        return Cell(self.target, artifact, cell) if cell.artifact_sha256 == artifact.sha256 else None

    def fill(self, inputs: CellInputs, say: Say, progress: Progress) -> tuple[Artifact, MeasuredCell]:
        """Build and measure the artifact: in float, in int8 by a search within the budget or by the default plan."""
        card, weights, calibration = self.row.card, self.row.checkpoint, self.calibration
        images = calibration if self.integer and isinstance(calibration, Calibration) else None
        if images is None or self.row.budget is None:
            for line in shared_images(load_task(card.task), images.dataset, self.dataset) if images else []:
                say(f"warning: {line}")
            (outcome,) = deployment.deploy(
                card,
                [str(self.target)],
                self.folder,
                checkpoint=weights,
                ema=self.row.ema,
                calibration=images,
                force=True,  # what a run left there that was killed
                say=say,
            )
            if outcome.artifact is None:
                raise outcome.error or InputError(
                    f"{self.target} makes a build kit, not an artifact", "leave its backend out of the table"
                )
            return outcome.artifact, measured_cell(inputs, evaluate(outcome.artifact, self.dataset, progress=progress))
        result = quantize(
            card,
            str(self.target),
            self.folder,
            calibration=images,
            evaluation=self.dataset,
            checkpoint=weights,
            ema=self.row.ema,
            max_drop=self.row.budget.max_drop,
            min_fidelity=self.row.budget.min_fidelity,
            force=True,  # replaces the files of a killed run
            say=say,
        )
        return result.artifact, measured_cell(inputs, result.evaluations[-1], result.verdict, result.integer_share)


def _with_changes(row: Row, cells: Sequence[Cell], data: Dataset | SandglassError) -> list[Cell]:
    """The cells with their paired change against float on the same backend, if there is ground truth.

    The returned cells have no predictions, to save memory; the files of the cells keep them.
    """
    if isinstance(data, SandglassError):  # nothing was measured
        return list(cells)
    task = load_task(row.card.task)
    float_cells = {cell.target.backend: cell.result for cell in cells if cell.target.precision == FLOAT}

    def change(result: MeasuredCell, base: MeasuredCell | None) -> dict[str, Change] | None:
        if base is None or base is result or not has_truths(task, base.metrics):
            return None
        return task.paired(base.task_predictions, result.task_predictions, data)

    return [
        replace(
            cell,
            change=change(cell.result, float_cells.get(cell.target.backend)),
            result=structs.replace(cell.result, predictions=[]),
        )
        if cell.result
        else cell
        for cell in cells
    ]


def _with_speeds(cells: Sequence[Cell], folder: Path, say: Say, progress: NewProgress) -> Iterator[Cell]:
    """The cells with their speeds, which are read from an earlier run with the same artifacts, or measured now."""
    for backend in dict.fromkeys(cell.target.backend for cell in cells):
        backend_cells = [cell for cell in cells if cell.target.backend == backend]
        artifacts = [cell.artifact for cell in backend_cells if cell.artifact]
        speeds = iter(_speeds(artifacts, folder / SPEED.format(backend), say, progress))
        yield from (_with_speed(cell, next(speeds)) if cell.artifact else cell for cell in backend_cells)


def _with_speed(cell: Cell, speed: Timing | SandglassError) -> Cell:
    if isinstance(speed, SandglassError):
        return replace(cell, speed_reason=reason(speed))
    return replace(cell, speed=speed)


def _speeds(
    artifacts: Sequence[Artifact], path: Path, say: Say, progress: NewProgress
) -> Sequence[Timing | SandglassError]:
    """The speed of each artifact, or the error that stopped it."""
    if not artifacts:
        return []
    earlier = read_timings(path)
    if [entry.artifact_sha256 for entry in earlier] == [artifact.sha256 for artifact in artifacts]:
        return earlier
    name = f"timing {artifacts[0].card.name} on {artifacts[0].backend}"
    say(f"{name}: {len(artifacts)} artifacts in turns")
    speeds = [
        entry if isinstance(entry, SandglassError) else timing(entry[0])
        for entry in benchmark_each(artifacts, progress=progress(name, "rounds"))
    ]
    timings = [entry for entry in speeds if isinstance(entry, Timing)]
    if len(timings) == len(speeds):
        write_timings(path, timings)
    return speeds
