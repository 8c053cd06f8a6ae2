"""Artifacts: whole, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts import CARD, write_null
from sandglass.artifact import load_artifact
from sandglass.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of the backend that computes nothing."""
    (tmp_path / "weights.bin").write_bytes(b"1234")
    return write_null(tmp_path)


def test_loads_what_was_written(folder: Path) -> None:
    """A manifest is read back, and the artifact runs."""
    artifact = load_artifact(folder)
    assert (artifact.backend, artifact.precision, artifact.size, artifact.input_name) == ("null", "fp32", 4, "x")
    import numpy as np

    assert artifact.open(1).run({"x": np.zeros((3, 3, 8, 8), np.float32)})["y"].shape == (3, 2)


def test_changed_file_is_refused(folder: Path) -> None:
    """One flipped byte in a file makes the artifact unloadable, by the file's name."""
    (folder / "weights.bin").write_bytes(b"1235")
    with pytest.raises(ArtifactError, match=r"weights.bin was changed"):
        load_artifact(folder)


def test_missing_file_is_refused(folder: Path) -> None:
    """A file that the manifest lists must be there."""
    (folder / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"weights.bin is missing"):
        load_artifact(folder)


def test_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    """The manifest is written last: without it nothing loads."""
    with pytest.raises(ArtifactError, match="not an artifact"):
        load_artifact(tmp_path)


@pytest.mark.parametrize("change", [{"format": 99}, {"card": {**CARD, "task": "juggling"}}])
def test_manifest_of_another_kind_is_refused(folder: Path, change: dict[str, object]) -> None:
    """An unknown format or task is refused with the path of the manifest."""
    path = folder / "sandglass.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match=r"sandglass.json"):
        load_artifact(folder)
