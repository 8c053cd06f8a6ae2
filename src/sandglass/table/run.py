"""A matrix of models, backends and precisions in one go, which a killed run goes on with.

Each cell has a folder of its own in `out/MODEL`, and in it, written last, `cell.json`: what was measured, or why there
is nothing. A later run makes again only the cells whose model, data or search is another one by then.
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
from sandglass.search.trials import build_full_int8
from sandglass.sources.card import Card
from sandglass.sources.prepare import find_checkpoint, prepared_source
from sandglass.table.cells import (
    SPEED,
    Asked,
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
    ParityError: "disagrees with the graph",
    CrashError: "crashed",
}
# Another run would end in the same error. After any other error the next run tries the cell again.
KEPT = (UnsupportedOperator, BudgetError, ParityError)


def _silent(label: str) -> Progress:
    return lambda done, total: None


@dataclass(frozen=True)
class Cell:
    """What became of one target of a row: a measured artifact, or the reason why there is none.

    `change` is the paired change of each metric against float on the same backend. `reason` says why there is no
    artifact, `speed_reason` why an artifact has no speed.
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


def deploy_all(
    table: Table, out: Path, *, say: Say = lambda line: None, progress: Callable[[str], Progress] = _silent
) -> list[Line]:
    """Make, evaluate and time every cell that `out` does not hold already; what stops one cell stops no other.

    Latencies come last, the precisions of a row and backend interleaved. Raises BusyError where another run works in
    `out`.
    """
    with locked_folder(out):
        return _deploy_all(table, out, say, progress)


def _deploy_all(table: Table, out: Path, say: Say, progress: Callable[[str], Progress]) -> list[Line]:
    total, number = len(table.rows) * len(table.targets()), 0
    found: list[tuple[Row, list[Cell]]] = []
    for row in table.rows:
        data, calibration = _loaded(row.load_data), _loaded(row.load_calibration)
        cells = []
        for target in table.targets():
            number += 1
            name = f"{number}/{total} {row.card.name} {target}"
            work = _Work(row, target, out / row.card.name / target.folder, data, calibration)
            cells.append(work.run(name, say, progress(name)))
        found.append((row, _with_changes(row, cells, data)))
    return [Line(row, tuple(_with_speeds(cells, out / row.card.name, say, progress))) for row, cells in found]


def _loaded(load: Callable[[], T]) -> T | SandglassError:
    """What is loaded, or the error that stopped it."""
    try:
        return load()
    except SandglassError as error:
        return error


def reason(error: SandglassError) -> str:
    """Why a cell is empty: the kind of reason, and the error."""
    return f"{REASONS.get(type(error), 'failed')}: {error}"


@dataclass(frozen=True)
class _Work:
    """One cell to be made in `folder`; `data` and `calibration` may be the errors that stopped their loading."""

    row: Row
    target: Target
    folder: Path
    data: Dataset | SandglassError
    calibration: Calibration | SandglassError | None

    def run(self, name: str, say: Say, progress: Progress) -> Cell:
        """The cell as it is in its folder, or made anew."""
        try:
            self.check()
            asked = self.asked()
            if done := self.done(asked):
                say(f"{name}: done before")
                return done
            say(f"{name}: begins")
            sweep(self.folder)
            artifact, result = self.make(asked, say, progress)
        except SandglassError as error:
            say(f"{name}: {reason(error)}")
            if isinstance(error, KEPT):
                write_cell(self.folder, EmptyCell(self.asked(), reason(error)))
            return Cell(self.target, reason=reason(error))
        write_cell(self.folder, result)
        return Cell(self.target, artifact, result)

    def check(self) -> None:
        """Raises what is known to stop the cell before anything is made."""
        backend = load_backend(self.target.backend)
        if self.target.precision not in backend.PRECISIONS:
            has = ", ".join(backend.PRECISIONS)
            raise InputError(f"{self.target.backend} has no {self.target.precision}", f"it has {has}")
        backend.available()
        for loaded in (self.data, self.calibration if self.integer else None):
            if isinstance(loaded, SandglassError):
                raise loaded
        if self.integer and self.calibration is None:
            raise DatasetError("int8 needs calibration images", "give the row a [row.calibration]")

    @property
    def dataset(self) -> Dataset:
        """The data to evaluate on; raises the error that stopped their loading."""
        if isinstance(self.data, SandglassError):
            raise self.data
        return self.data

    @property
    def integer(self) -> bool:
        return self.target.precision == "int8"

    def asked(self) -> Asked:
        """What the cell follows from."""
        card, calibration, budget = self.row.card, self.calibration, self.row.budget
        files = [card.graph, card.graph.with_suffix(".bin")] if card.graph else []
        if card.model:
            files.append(find_checkpoint(card, self.row.checkpoint))
        asked = Asked(
            card=json.loads(json.dumps(card.to_dict())),  # as it is read from a file
            files=[sha256(file) for file in files if file.is_file()],
            data=self.dataset.fingerprint,
            ema=self.row.ema,
        )
        if not (self.integer and isinstance(calibration, Calibration)):
            return asked
        return structs.replace(
            asked,
            calibration=(calibration.dataset.fingerprint, calibration.size, calibration.method, calibration.seed),
            budget=(budget.max_drop, budget.min_fidelity) if budget else None,
        )

    def done(self, asked: Asked) -> Cell | None:
        """The finished cell; None where there is none, it follows from something else, or its artifact is another."""
        cell = read_cell(self.folder)
        if cell is None or cell.asked != asked:
            return None
        if isinstance(cell, EmptyCell):
            return Cell(self.target, reason=cell.reason)
        try:
            artifact = load_artifact(self.folder / self.target.folder)
        except ArtifactError:
            return None
        return Cell(self.target, artifact, cell) if cell.artifact_sha256 == artifact.sha256 else None

    def make(self, asked: Asked, say: Say, progress: Progress) -> tuple[Artifact, MeasuredCell]:
        """The artifact and what is measured: float, searched for under the row's budget, or in int8 as a whole."""
        card, weights, calibration = self.row.card, self.row.checkpoint, self.calibration
        if not (self.integer and isinstance(calibration, Calibration)):
            (outcome,) = deployment.deploy(
                card, [str(self.target)], self.folder, checkpoint=weights, ema=self.row.ema, force=True, say=say
            )
            if outcome.artifact is None:
                raise outcome.error or InputError(f"{self.target} was not built")
            return outcome.artifact, measured_cell(asked, evaluate(outcome.artifact, self.dataset, progress=progress))
        if self.row.budget is None:
            for line in shared_images(load_task(card.task), calibration.dataset, self.dataset):
                say(f"warning: {line}")
            artifact = repaired(card, self.target, self.folder, calibration, weights, say, self.row.ema)
            return artifact, measured_cell(asked, evaluate(artifact, self.dataset, progress=progress))
        found = quantize(
            card,
            str(self.target),
            self.folder,
            calibration=calibration,
            evaluation=self.dataset,
            checkpoint=weights,
            ema=self.row.ema,
            max_drop=self.row.budget.max_drop,
            min_fidelity=self.row.budget.min_fidelity,
            force=True,  # what a run left there that was killed
            say=say,
        )
        return found.artifact, measured_cell(asked, found.evaluations[-1], found.verdict, found.integer_share)


def _with_changes(row: Row, cells: Sequence[Cell], data: Dataset | SandglassError) -> list[Cell]:
    """The cells with their paired change against float on the same backend, where there are truths.

    Their predictions have served then, and are left in their files.
    """
    if isinstance(data, SandglassError):  # then nothing was measured
        return list(cells)
    task = load_task(row.card.task)
    base = {cell.target.backend: cell.result for cell in cells if cell.target.precision == FLOAT}

    def change(result: MeasuredCell, before: MeasuredCell | None) -> dict[str, Change] | None:
        if before is None or before is result or not has_truths(task, before.metrics):
            return None
        return task.paired(before.task_predictions, result.task_predictions, data)

    return [
        replace(
            cell,
            change=change(cell.result, base.get(cell.target.backend)),
            result=structs.replace(cell.result, predictions=[]),
        )
        if cell.result
        else cell
        for cell in cells
    ]


def _with_speeds(cells: Sequence[Cell], folder: Path, say: Say, progress: Callable[[str], Progress]) -> Iterator[Cell]:
    """The cells with their speed: as it was measured before for the same artifacts, or measured now."""
    for backend in dict.fromkeys(cell.target.backend for cell in cells):
        same = [cell for cell in cells if cell.target.backend == backend]
        artifacts = [cell.artifact for cell in same if cell.artifact]
        speeds = iter(_speeds(artifacts, folder / SPEED.format(backend), say, progress))
        yield from (_with_speed(cell, next(speeds)) if cell.artifact else cell for cell in same)


def _with_speed(cell: Cell, speed: Timing | SandglassError) -> Cell:
    if isinstance(speed, SandglassError):
        return replace(cell, speed_reason=reason(speed))
    return replace(cell, speed=speed)


def _speeds(
    artifacts: Sequence[Artifact], path: Path, say: Say, progress: Callable[[str], Progress]
) -> Sequence[Timing | SandglassError]:
    """The speed of each artifact, or the error that stopped it."""
    if not artifacts:
        return []
    known = read_timings(path)
    if [entry.artifact_sha256 for entry in known] == [artifact.sha256 for artifact in artifacts]:
        return known
    name = f"latency of {artifacts[0].card.name} on {artifacts[0].backend}"
    say(name)
    speeds = [
        entry if isinstance(entry, SandglassError) else timing(entry[0])
        for entry in benchmark_each(artifacts, progress=progress(name))
    ]
    timings = [entry for entry in speeds if isinstance(entry, Timing)]
    if len(timings) == len(speeds):
        write_timings(path, timings)
    return speeds


def repaired(
    card: Card,
    target: Target,
    out: Path,
    calibration: Calibration,
    checkpoint: Path | None,
    say: Say,
    ema: bool = False,
) -> Artifact:
    """Write `out/BACKEND-int8` with every layer in int8 that can be, after all repairs, and `out/plan.json`."""
    with prepared_source(card, checkpoint, say, ema=ema) as ready:
        return build_full_int8(ready, target.backend, calibration, out, say)
