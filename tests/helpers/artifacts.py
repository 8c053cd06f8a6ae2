"""An artifact for tests that computes nothing."""

from __future__ import annotations

from pathlib import Path

from sandglass.artifacts.manifest import write_manifest

CARD = {
    "name": "toy",
    "task": "topdown-pose",
    "model": "hourglass",
    "input": {"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]},
}


def write_null(folder: Path) -> Path:
    """Write the manifest of one beside what `folder` holds already; returns the folder."""
    folder.mkdir(exist_ok=True)
    fields = {"card": CARD, "backend": "null", "precision": "fp32", "inputs": {"x": [1, 3, 8, 8]},
              "graph_sha256": "0", "check": {}, "backend_notes": {"outputs": {"y": [1, 2]}}}  # fmt: skip
    write_manifest(folder, fields)
    return folder
