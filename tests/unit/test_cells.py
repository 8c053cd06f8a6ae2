"""Cells of a table: what is written is read, and a file that does not fit is as good as none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandglass.table.cells import CELL, CellInputs, EmptyCell, MeasuredCell, read_cell, read_timings, write_cell

INPUTS = CellInputs(
    card={"name": "a", "input": {"size": [8, 8]}}, files=["0"], data="1", calibration=("2", 8, "auto", 0)
)
PREDICTION: dict[str, Any] = {"image_id": 1, "keypoints": [[1.0, 2.0, 0.5]], "score": 0.5}
MEASURED = MeasuredCell(
    inputs=INPUTS,
    model="a",
    input=(8, 8),
    backend="null",
    precision="fp32",
    metrics={"AP": {"value": 0.5, "low": 0.4, "high": 0.6, "threshold": 0.3, "sweep": [[0.3, 0.5, 0.6, 0.4]]}},
    samples=1,
    protocol={"dataset": "d", "partial": True},
    origin={"artifact_sha256": "3", "host": {"threads": 2}},
    seconds=1.0,
    resumed_samples=0,
    predictions=[PREDICTION],
)


@pytest.mark.parametrize("cell", [EmptyCell(INPUTS, "budget missed: by 9 points"), MEASURED])
def test_cell_is_read_as_it_was_written(cell: EmptyCell | MeasuredCell, tmp_path: Path) -> None:
    """With all fields of its predictions and metrics, whatever the task is."""
    write_cell(tmp_path, cell)
    assert read_cell(tmp_path) == cell


def test_results_have_no_predictions() -> None:
    """They are what the JSON table holds."""
    assert "predictions" not in MEASURED.results()
    assert MEASURED.results()["metrics"] == MEASURED.metrics
    assert MEASURED.artifact_sha256 == "3"


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "{}", '{"asked": {}, "reason": "x"}'])
def test_file_that_does_not_fit_is_none(text: str, tmp_path: Path) -> None:
    """The cell is made again then, and so is one of another version."""
    assert read_cell(tmp_path) is None
    (tmp_path / CELL).write_text(text)
    assert read_cell(tmp_path) is None
    assert read_timings(tmp_path / CELL) == []
    write_cell(tmp_path, MEASURED)
    (tmp_path / CELL).write_text(json.dumps({**json.loads((tmp_path / CELL).read_text()), "new": 1}))
    assert read_cell(tmp_path) is None
