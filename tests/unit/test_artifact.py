"""Artifacts: whole, or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from artifacts import CARD, write_null

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.manifest import SEAL, seal
from sandglass.artifacts.tuned_settings import Tuned, write_tuned
from sandglass.core.errors import ArtifactError
from sandglass.core.files import sha256
from sandglass.core.locks import LOCK, locked_folder


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


def edited(folder: Path, right: bool = True, **changes: Any) -> None:
    """Change fields of the manifest; None removes one. Where `right`, its own hash is that of the result."""
    path = folder / "sandglass.json"
    manifest = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    if right:
        manifest[SEAL] = seal({name: value for name, value in manifest.items() if name != SEAL})
    path.write_text(json.dumps(manifest))


def test_edited_manifest_is_refused(folder: Path) -> None:
    """An edit that would change results silently, such as another mean, is an error, and so is any other one."""
    whole = (folder / "sandglass.json").read_text()
    manifest = json.loads(whole)
    changes: list[dict[str, Any]] = [
        {"card": {**manifest["card"], "input": {**manifest["card"]["input"], "mean": [9, 0, 0]}}},
        {"graph_sha256": "1"}, {"check": {"summary": "fine"}}, {"backend_notes": {"outputs": {"y": [1, 3]}}},
        {"note": "added"},
    ]  # fmt: skip
    for change in changes:
        edited(folder, right=False, **change)
        with pytest.raises(ArtifactError, match=r"sandglass.json was edited after the artifact was written"):
            load_artifact(folder)
        (folder / "sandglass.json").write_text(whole)
    assert load_artifact(folder).size == 4


def test_nothing_listed_turns_no_verification_off(folder: Path) -> None:
    """Zeroed weights do not load with an empty list of files, nor where the list leaves them out."""
    (folder / "weights.bin").write_bytes(bytes(4))
    edited(folder, files={})
    with pytest.raises(ArtifactError, match=r"weights.bin is not listed in sandglass.json"):
        load_artifact(folder)
    (folder / "weights.bin").unlink()
    edited(folder, files={}, backend="onnxruntime")
    with pytest.raises(ArtifactError, match="files is empty"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "name",
    ["sub/extra.bin", ".hidden", "sitecustomize.py", "sandglass.json.bak", "sub/tuning.json", "sub/sandglass.json"],
)
def test_file_that_is_not_listed_is_refused(folder: Path, name: str) -> None:
    """Whatever it is called and however deep it lies."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactError, match="is not listed"):
        load_artifact(folder)


def test_what_is_kept_beside_the_manifest_is_no_stranger(folder: Path) -> None:
    """Tuned settings, what a killed `tune` left, and its lock belong there, and change nothing."""
    before = load_artifact(folder)
    write_tuned(folder, before.sha256, Tuned("latency", 1))
    (folder / ".tuning.json.12345678-sandglass.part").touch()
    with locked_folder(folder):
        assert (folder / LOCK).exists()
        assert load_artifact(folder).sha256 == before.sha256
    write_tuned(folder, before.sha256, Tuned("latency", 1))
    assert sorted(path.name for path in folder.iterdir()) == ["sandglass.json", "tuning.json", "weights.bin"]


BAD_NAMES = ["../outside.bin", "/etc/passwd", "sub/../weights.bin", "./weights.bin", "a\0b", "..", "", "sub//x", "a\\b",
             "line\nbreak"]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_lead_nowhere_else(folder: Path, name: str) -> None:
    """A listed name is a path inside the artifact, also where the file exists and has the hash."""
    (folder.parent / "outside.bin").write_bytes(b"1234")
    files = {"weights.bin": sha256(folder / "weights.bin"), name: sha256(folder / "weights.bin")}
    edited(folder, files=files)
    with pytest.raises(ArtifactError, match="expected a path inside the artifact"):
        load_artifact(folder)


@pytest.mark.parametrize("name", ["weights.bin", "sandglass.json", "tuning.json"])
def test_link_out_of_the_folder_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """Also where its target has the right content; a link to a listed file of the artifact is a file like any other."""
    outside = tmp_path_factory.mktemp("outside") / name
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("{}")
    (folder / name).symlink_to(outside)
    with pytest.raises(ArtifactError, match="a link to a file outside the artifact"):
        load_artifact(folder)


def test_link_inside_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is followed, and the folder itself may be a link."""
    (folder / "same.bin").symlink_to("weights.bin")
    write_null(folder)
    link = tmp_path_factory.mktemp("elsewhere") / "artifact"
    link.symlink_to(folder)
    assert load_artifact(link).size == 8


def test_pipe_in_place_of_a_file_is_refused(folder: Path) -> None:
    """Nothing waits for what never comes."""
    (folder / "weights.bin").unlink()
    os.mkfifo(folder / "weights.bin")
    with pytest.raises(ArtifactError, match=r"weights.bin is missing"):
        load_artifact(folder)
    (folder / "weights.bin").unlink()
    (folder / "weights.bin").write_bytes(b"1234")
    for name in ("pipe", "tuning.json"):
        os.mkfifo(folder / name)
        with pytest.raises(ArtifactError, match=f"{name} is not listed"):
            load_artifact(folder)
        (folder / name).unlink()


HASH = "0" * 64
WRONG = [
    {"format": "1"}, {"format": True}, {"format": 1.0}, {"format": 2}, {"card": [1]}, {"card": "x"}, {"card": {}},
    {"backend": 5}, {"backend": "../x"}, {"backend": "ncnn2"}, {"precision": "int3"}, {"precision": ["fp32"]},
    {"files": ["weights.bin"]}, {"files": {"weights.bin": 1}}, {"files": {"weights.bin": "abc"}},
    {"inputs": {}}, {"inputs": [1]}, {"inputs": {"x": 5}}, {"inputs": {"x": []}}, {"inputs": {"x": [1, 3, -1, 5]}},
    {"inputs": {"x": [1, 3, 8.0, 8]}}, {"inputs": {"x": [1, 3, True, 8]}}, {"inputs": {"x": [1, 3, 10**6, 10**6]}},
    {"inputs": {"x": [10**400]}}, {"inputs": {"x": "abc"}}, {"graph_sha256": 5}, {"checkpoint_sha256": 5},
    {"plan_sha256": []}, {"build_key": {}}, {"check": "fine"}, {"check": [1]}, {"backend_notes": [1]},
    {"versions": [1]}, {"shapes": "x"}, {"shapes": {}}, {"shapes": [[1, 2]]}, {"shapes": [[1, 2, "3"]]},
    {"shapes": [[0, 2, 3]]}, {"by_shape": [["../../..", "x", {}]]}, {"by_shape": [[8, 8, 1]]}, {"by_shape": [8]},
    {"by_shape": [[10**9, 10**9, {}]]},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_fields_have_their_types(folder: Path, change: dict[str, Any]) -> None:
    """A field of another type is refused by the manifest's path, with and without the right hash."""
    whole = (folder / "sandglass.json").read_text()
    for right in (True, False):
        edited(folder, right, **change)
        with pytest.raises(ArtifactError, match=r"sandglass.json"):
            load_artifact(folder)
        (folder / "sandglass.json").write_text(whole)


@pytest.mark.parametrize("name", ["format", "card", "backend", "precision", "files", "inputs", "graph_sha256", "check",
                                  "backend_notes", SEAL])  # fmt: skip
def test_every_field_is_needed(folder: Path, name: str) -> None:
    """A manifest that lacks one is refused."""
    edited(folder, right=False, **{name: None})
    with pytest.raises(ArtifactError, match=r"sandglass.json"):
        load_artifact(folder)
