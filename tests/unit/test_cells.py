"""The files of a table's cells keep what an evaluation says."""

from __future__ import annotations

import json
from pathlib import Path

from sandglass.core.errors import ArtifactError
from sandglass.core.files import write_json
from sandglass.core.records import read_json_record, to_data, to_record
from sandglass.table.cells import AGAIN, MeasuredCell

CONTENT: dict[str, object] = {
    "asked": {"card": {}, "files": [], "data": "f"},
    "model": "m",
    "input": [64, 96],
    "backend": "b",
    "precision": "fp32",
    "metrics": {
        "hmean": {"value": 0.5, "low": 0.4, "high": 0.6, "threshold": 0.3, "sweep": [[0.3, 0.5, 0.6, 0.4]]},
        "recall": {"value": 0.6, "low": 0.5, "high": 0.7},
    },
    "samples": 1,
    "protocol": {"dataset": "d", "partial": True, "samples": 1},
    "origin": {"artifact_sha256": "a"},
    "seconds": 1.5,
    "resumed_samples": 0,
    "predictions": [{"image_id": "page", "texts": [{"points": [[0.0, 1.0]], "score": 0.5}]}],
}


def test_metrics_and_predictions_of_any_task_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Thresholds, sweeps and a task's own fields come back, also from a file."""
    cell = to_record(CONTENT, MeasuredCell, "cell", ArtifactError, AGAIN)
    write_json(tmp_path / "cell.json", to_data(cell))
    again = read_json_record(tmp_path / "cell.json", MeasuredCell, ArtifactError, AGAIN)
    for name in ("metrics", "predictions", "protocol"):
        assert json.loads(json.dumps(to_data(again)[name])) == CONTENT[name]
