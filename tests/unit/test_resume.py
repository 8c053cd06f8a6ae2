"""Run the same command again to go on: `deploy` keeps what is finished, and only that."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.target import Target
from sandglass.cli.conformance.networks import save_graph
from sandglass.cli.main import main
from sandglass.core.errors import ArtifactError, BusyError, InputError
from sandglass.core.files import PART
from sandglass.core.locks import locked_folder
from sandglass.deployment import deploy
from sandglass.search.output_folder import ARGUMENTS, FINISHED, claimed_folder
from unit.test_cli import CARD, SYNTHETIC

TARGETS = ("onnxruntime:fp32", "onnxruntime:int8", "reference:fp32")


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card beside its graph."""
    save_graph(tmp_path / "small.onnx")
    (tmp_path / "small.toml").write_text(CARD)
    return tmp_path / "small.toml"


def run(card: Path, out: Path, *targets: str) -> int:
    """The exit code of `sandglass deploy`."""
    return main(["deploy", str(card), "--to", *targets, "--out", str(out), *SYNTHETIC])


def marks(out: Path) -> dict[str, int]:
    """When each artifact's folder was made; it is another one where the artifact was made again."""
    return {path.name: path.stat().st_ino for path in out.iterdir() if path.is_dir()}


def test_finished_targets_are_kept(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command builds what is missing and nothing else, and succeeds as often as it is run."""
    out = tmp_path / "out"
    assert run(card, out, *TARGETS[:2]) == 0
    before = marks(out)
    (out / f".reference-fp32.12345678{PART}").mkdir()
    capsys.readouterr()
    assert run(card, out, *TARGETS) == 0
    said = capsys.readouterr()
    assert {name: mark for name, mark in marks(out).items() if name in before} == before
    assert sorted(path.name for path in out.iterdir()) == [
        *sorted(before),
        "onnxruntime-int8.plan.json",
        "reference-fp32",
    ]
    assert said.err.count("up to date, reused") == 2
    assert all(name in said.out for name in ("fp32", "int8", "reference"))
    assert run(card, out, *TARGETS) == 0
    assert marks(out).keys() - before.keys() == {"reference-fp32"}


@pytest.mark.parametrize("change", ["weights", "card", "inputs", "damage", "foreign"])
def test_anything_else_that_is_there_is_refused(card: Path, tmp_path: Path, change: str) -> None:
    """Other weights, another card, other calibration images, a changed file, a folder of something else."""
    out = tmp_path / "out"
    if change == "foreign":
        (out / "onnxruntime-fp32").mkdir(parents=True)
        (out / "onnxruntime-fp32/thesis.txt").touch()
    else:
        assert run(card, out, TARGETS[0]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if change == "weights":
        model = onnx.load(tmp_path / "small.onnx")
        first = model.graph.initializer[0]
        first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * 2, first.name))
        onnx.save(model, tmp_path / "small.onnx")
    elif change == "card":
        card.write_text(CARD.replace("123.675", "100.0"))
    elif change == "damage":
        path = out / "onnxruntime-fp32/model.onnx"
        before[path] = path.read_bytes()[:-1]
        path.write_bytes(before[path])
    options = [*SYNTHETIC[:-1], "3"] if change == "inputs" else SYNTHETIC  # the last is the number of samples
    arguments = ["deploy", str(card), "--to", TARGETS[0], "--out", str(out), *options]
    assert main(arguments) == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert main([*arguments, "--force"]) == 0
    assert load_artifact(out / "onnxruntime-fp32").precision == "fp32"


def test_force_makes_everything_again(card: Path, tmp_path: Path) -> None:
    """Also what is finished, and the same inputs give the same bytes."""
    out = tmp_path / "out"
    assert run(card, out, *TARGETS[:2]) == 0
    before, files = marks(out), {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    deploy(card, TARGETS[:1], out, force=True)
    assert marks(out)["onnxruntime-fp32"] != before["onnxruntime-fp32"]
    assert marks(out)["onnxruntime-int8"] == before["onnxruntime-int8"]
    assert run(card, tmp_path / "other", *TARGETS[:2]) == 0
    assert {tmp_path / "other" / path.relative_to(out) for path in files} == {
        path for path in (tmp_path / "other").rglob("*") if path.is_file()
    }
    for path, content in files.items():
        assert (tmp_path / "other" / path.relative_to(out)).read_bytes() == content


def test_second_run_in_the_folder_is_refused(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once, before the graph is looked at; afterwards the folder is as it was."""
    out = tmp_path / "out"
    with locked_folder(out):
        assert run(card, out, TARGETS[0]) == 2
        said = capsys.readouterr().err
        assert "is in use by another run: process" in said
        assert "graph: " not in said
        with pytest.raises(BusyError):
            main_table(tmp_path, out)
    assert not out.exists()


def main_table(folder: Path, out: Path) -> None:
    """A table in a folder."""
    from sandglass.table.file import Table
    from sandglass.table.run import deploy_all

    deploy_all(Table((), (), ()), out)


GIVEN = {"model": "small", "target": "onnxruntime:int8", "max_drop": 0.5}
TARGET = Target("onnxruntime", "int8")


def test_search_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Its artifact, which may have been published last, is replaced; that of a finished one is not."""
    with pytest.raises(KeyboardInterrupt), claimed_folder(tmp_path, TARGET, GIVEN, force=False) as replace:
        assert not replace
        (tmp_path / TARGET.folder).mkdir()
        raise KeyboardInterrupt
    with claimed_folder(tmp_path, TARGET, GIVEN, force=False) as replace:
        assert replace
        with pytest.raises(BusyError), claimed_folder(tmp_path, TARGET, GIVEN, force=True):
            pass
    with pytest.raises(ArtifactError, match="exists already"), claimed_folder(tmp_path, TARGET, GIVEN, force=False):
        pass
    assert json.loads((tmp_path / ARGUMENTS).read_text()) == {**GIVEN, FINISHED: True}


def test_search_with_other_arguments_is_refused(tmp_path: Path) -> None:
    """By the names of the arguments; a damaged note is an error with a fix."""
    with claimed_folder(tmp_path, TARGET, GIVEN, force=False):
        pass
    other = {**GIVEN, "max_drop": 1.0}
    with (
        pytest.raises(InputError, match="other values of max_drop"),
        claimed_folder(tmp_path, TARGET, other, force=False),
    ):
        pass
    for damage in ("[]", "{half", "5"):
        (tmp_path / ARGUMENTS).write_text(damage)
        with pytest.raises(InputError, match=ARGUMENTS), claimed_folder(tmp_path, TARGET, GIVEN, force=False):
            pass
    with claimed_folder(tmp_path, TARGET, GIVEN, force=True):
        pass
