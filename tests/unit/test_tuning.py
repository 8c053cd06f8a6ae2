"""Tuning: what is tried, what is refused, what is kept, and that the file it leaves is sound."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import write_null

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.tuned_settings import TUNING, Tuned, processor_kind, read_tuned, write_tuned
from sandglass.backends import null
from sandglass.cli.main import main
from sandglass.core import host
from sandglass.core.errors import ArtifactError, BackendError, InputError
from sandglass.measure import interleaved, tuning
from sandglass.measure.benchmarking import benchmark
from sandglass.measure.interleaved import Configuration
from sandglass.measure.tuning import changed, disagreement, knobs, summary, tune

OFFERED = {"streams": (1, 2), "kind": ("slow", "fast", "wrong", "crash"), "idle": (False, True)}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """An artifact of the backend that computes nothing."""
    return load_artifact(write_null(tmp_path / "artifact"))


class FakeWorker:
    """A runtime whose speed follows from its configuration; its bursts last no time."""

    opened = 0

    def __init__(self, artifact: Artifact, threads: int, batch: int, settings: dict[str, Any]) -> None:
        if settings.get("kind") == "crash":
            raise BackendError("the runtime's process died")
        type(self).opened += 1
        self.batch, self.wrong = batch, settings.get("kind") == "wrong"
        fast = {"slow": 1.0, "fast": 0.5, "wrong": 0.01}[settings.get("kind", "slow")]
        self.spent = 0.01 * batch * fast / min(settings.get("streams", 1), batch) / threads**0.5

    def start(self, seconds: float) -> None:
        pass

    def finish(self) -> list[float]:
        return [self.spent] * 3

    def outputs(self, images: int) -> dict[str, np.ndarray]:
        return {"y": np.linspace(0, 1, 8, dtype=np.float32) * (1.01 if self.wrong else 1)}

    def close(self) -> None:
        type(self).opened -= 1


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    """Tuning on four threads with FakeWorker."""
    monkeypatch.setattr(interleaved, "Worker", FakeWorker)
    monkeypatch.setattr(null, "SETTINGS", OFFERED)
    monkeypatch.setattr(host, "threads", lambda: 4)
    monkeypatch.setattr(FakeWorker, "opened", 0)
    return FakeWorker


def test_descent_keeps_what_is_faster_and_right(artifact: Artifact, faked: type[FakeWorker]) -> None:
    """The fast kind is kept, the wrong and the crashing ones are refused, and every process is ended."""
    found = tune(artifact, goal="latency", seconds=5)
    verdicts = {trial.changed: trial.verdict for trial in found.trials}
    assert verdicts["kind fast"] == "chosen"
    assert verdicts["kind wrong"].startswith("refused: its result differs by 1.0e-02")
    assert verdicts["kind crash"].startswith("failed: the runtime's process died")
    assert verdicts["idle True"] == "not faster"
    assert verdicts["threads 1"] == "not faster"
    assert "streams 2" not in verdicts, "one image at a time cannot use streams"
    assert (found.best.threads, found.best.settings, found.best.gain) == (4, {"kind": "fast"}, 2.0)
    assert faked.opened == 0
    assert load_artifact(artifact.folder).tuned() == found.best
    assert "2.00 times the speed of the defaults" in summary(found)[0]
    assert [trial.changed for trial in tune(artifact, seconds=5).trials] == list(verdicts)


def test_throughput_uses_streams_and_advises_processes(artifact: Artifact, faked: type[FakeWorker]) -> None:
    """Streams come with a batch that fills them; processes are advice and change nothing that is stored as setting."""
    found = tune(artifact, goal="throughput", seconds=5)
    assert found.best.settings == {"streams": 2, "kind": "fast"}
    assert found.best.batch == 4
    assert found.best.threads == 4
    assert found.best.gain == pytest.approx(4)
    assert found.best.advice == {}, "processes without streams are no faster than streams here"
    assert faked.opened == 0


def test_busy_machine_is_told(artifact: Artifact, faked: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found while others computed is marked as unreliable."""
    monkeypatch.setattr(host, "load", lambda: 3.0)
    lines = summary(tune(artifact))
    assert any("unreliable: before tuning, other programs used 3.0 of 4 threads" in line for line in lines)
    monkeypatch.setattr(host, "load", lambda: 0.4)
    assert not any("unreliable" in line for line in summary(tune(artifact)))


def test_processes_are_advice(artifact: Artifact, faked: type[FakeWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several processes give more, the artifact itself keeps to one, and the summary says what to do."""
    monkeypatch.setattr(null, "SETTINGS", {})
    found = tune(artifact, goal="throughput", seconds=5)
    assert (found.best.threads, found.best.batch, found.best.settings) == (4, 1, {})
    assert found.best.advice == {"processes": 4, "threads": 1, "gain": 2.0}
    assert any("4 processes with 1 threads" in line for line in summary(found))


def test_out_of_time_is_told(artifact: Artifact, faked: type[FakeWorker]) -> None:
    """Knobs that are not reached are named, and what was found so far is compared and stored."""
    found = tune(artifact, seconds=1e-9)
    assert found.untried == ("threads", "kind", "idle")
    assert found.best == Tuned("latency", 4)
    assert "no time was left for threads, kind, idle" in "\n".join(summary(found))


def test_a_real_backend_in_real_processes(artifact: Artifact) -> None:
    """With real processes too: a backend without settings is timed, and its defaults are stored or beaten."""
    found = tune(artifact, seconds=0.1)
    assert found.trials[0].milliseconds is not None
    assert artifact.open().run(artifact.noise(2))["y"].shape == (2, 2)
    write_tuned(artifact.folder, artifact.sha256, Tuned("throughput", 3))
    (speed,) = benchmark([artifact], seconds=0.1)
    assert (speed.threads, speed.tuned_for) == (3, "throughput")


def test_knobs_depend_on_goal_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency tries fewer threads and settings; throughput adds streams, batches and processes."""
    monkeypatch.setattr(host, "threads", lambda: 6)
    assert knobs({"a": (1, 2)}, "latency") == [("threads", (4, 2, 1)), ("a", (2,))]
    assert knobs({"streams": (1, 2)}, "throughput") == [
        ("streams", (2,)), ("threads", (4, 2, 1)), ("batch", (2, 4, 8)), ("processes", (2, 4, 6)),
    ]  # fmt: skip
    assert changed(Configuration(6, settings={"streams": 2}), "processes", 3) == Configuration(2, processes=3)


def test_disagreement_by_precision() -> None:
    """Float results may differ by 2e-3 of the largest; int8 ones must correlate; NaN is never right."""
    expected = {"y": np.linspace(-1, 1, 100, dtype=np.float32)}
    assert disagreement(expected, {"y": expected["y"] + np.float32(1e-3)}, "fp32") == ""
    assert "differs by 3.0e-03" in disagreement(expected, {"y": expected["y"] + np.float32(3e-3)}, "fp32")
    assert disagreement(expected, {"y": expected["y"] + np.float32(3e-3)}, "int8") == ""
    assert "has a correlation of" in disagreement(expected, {"y": np.abs(expected["y"])}, "int8")
    assert "not finite" in disagreement(expected, {"y": expected["y"] * np.float32("nan")}, "int8")


def test_stored_settings_leave_the_artifact_what_it_is(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash does not change, other processors keep the defaults, and a second result replaces the first."""
    before = artifact.sha256
    write_tuned(artifact.folder, before, Tuned("latency", 7))
    again = load_artifact(artifact.folder)
    assert (again.sha256, again.size, again.threads) == (before, artifact.size, 7)
    here = processor_kind()
    monkeypatch.setattr(host, "processor", lambda: "another")
    assert again.tuned() is None
    assert again.threads == host.threads()
    write_tuned(artifact.folder, before, Tuned("throughput", 3))
    assert {kind: entry.threads for kind, entry in read_tuned(artifact.folder, before).items()} == {
        here: 7, processor_kind(): 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "the content is [], expected an object with fields"),
        ({"format": 9}, "format is 9, expected 1"),
        ({"artifact": "0" * 64}, "belongs to another artifact, with the hash '000000000000'"),
        ({"processors": {"x": {"goal": "speed", "threads": 1}}}, "processors.x: goal is 'speed', expected one of"),
        ({"processors": {"x": {"goal": "latency", "threads": 0}}}, "processors.x.threads is 0, expected int >= 1"),
        ({"processors": {"a": {"goal": "latency", "threads": 1}, "x": {"goal": "latency"}}},
         "the field 'processors.x.threads' is missing"),
        ({"processors": {"x": {"goal": "latency", "threads": 1, "settings": 3}}}, "x.settings is 3, expected table"),
        ({"note": 1}, "unknown field 'note', expected artifact, format, processors"),
    ],
)  # fmt: skip
def test_broken_file_is_one_clear_error(artifact: Artifact, content: object, message: str) -> None:
    """It names the file and says to delete it."""
    if isinstance(content, dict):
        content = json.dumps({"format": 1, "artifact": artifact.sha256, "processors": {}, **content})
    (artifact.folder / TUNING).write_text(str(content))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(artifact.folder)
    assert TUNING in caught.value.message
    assert message in caught.value.message


def test_setting_that_the_backend_lacks_is_named(artifact: Artifact) -> None:
    """A value that this version of a backend does not offer is refused when the artifact is opened."""
    write_tuned(artifact.folder, artifact.sha256, Tuned("latency", 1, settings={"warp": 9}))
    with pytest.raises(ArtifactError, match="sets warp to 9, which null does not offer"):
        load_artifact(artifact.folder).open()
    assert load_artifact(artifact.folder).open(1, {}), "explicit settings are used in their place"


def test_bad_input_is_one_line(
    artifact: Artifact, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An unknown goal, a folder that is no artifact, and a backend that is not installed: exit code 2."""
    from sandglass.core.errors import BackendUnavailable

    assert main(["tune", str(artifact.folder), "--for", "fun"]) == 2
    assert "unknown goal 'fun'" in capsys.readouterr().err
    assert main(["tune", str(tmp_path)]) == 2
    assert "not an artifact" in capsys.readouterr().err

    def missing() -> str:
        raise BackendUnavailable("it is not installed", "pip install it")

    monkeypatch.setattr(null, "available", missing)
    assert main(["tune", str(artifact.folder)]) == 2
    assert capsys.readouterr().err == "sandglass: it is not installed\n  pip install it\n"
    with pytest.raises(InputError):
        tune(artifact, goal="")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_is_told_before_the_search(artifact: Artifact) -> None:
    """Nothing is timed for a result that cannot be stored."""
    artifact.folder.chmod(0o500)
    with pytest.raises(ArtifactError, match="cannot write"):
        tune(artifact, seconds=1)


def test_command_prints_and_writes(
    artifact: Artifact, faked: type[FakeWorker], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The table has a row for every trial, and the JSON holds them with the machine."""
    assert main(["tune", str(artifact.folder), "--seconds", "5", "--json", str(tmp_path / "t.json")]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "t.json").read_text())
    assert len(written["trials"]) == sum(line.startswith("| ") for line in printed.splitlines()) - 2
    assert written["best"]["settings"] == {"kind": "fast"}
    assert written["host"]["processor"] in written["processor"]
    assert tuning.TUNING in printed
