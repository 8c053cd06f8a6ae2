"""The evaluation loop: order, batches, flipping and going on after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.core.resume import Journal
from sandglass.datasets import KeypointDataset, synthetic_people
from sandglass.deployment import deploy
from sandglass.measure.evaluation import changes, evaluate


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The embedded model on ONNX Runtime."""
    pytest.importorskip("torch")
    (outcome,) = deploy("hourglass-tiny-synthetic", ["onnxruntime:fp32"], tmp_path_factory.mktemp("artifact"))
    assert outcome.artifact is not None
    return outcome.artifact


@pytest.fixture(scope="module")
def people() -> KeypointDataset:
    """Twenty images."""
    return synthetic_people.load(limit=20)


def journal(folder: Path) -> Journal:
    return Journal({"a": 1}, folder)


def test_batches_and_threads_do_not_change_predictions(
    artifact: Artifact, people: KeypointDataset, tmp_path: Path
) -> None:
    """One image at a time or seven, on one thread or two: the same keypoints, in sample order."""
    one = evaluate(artifact, people, threads=1, journal=journal(tmp_path / "a"))
    seven = evaluate(artifact, people, batch=7, threads=2, journal=journal(tmp_path / "b"))
    assert [p["image_id"] for p in one.predictions] == sorted(p["image_id"] for p in one.predictions)
    for a, b in zip(one.predictions, seven.predictions, strict=True):
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=1e-3)
    assert one.metrics["AP"]["value"] > 0.6
    assert one.protocol["boxes"] == "ground truth"
    assert changes([one, seven])[0] is None
    assert changes([one, seven])[1]["AP"]["value"] == pytest.approx(0, abs=1e-6)  # type: ignore[index]


def test_flip_test_helps_or_is_close(artifact: Artifact, people: KeypointDataset, tmp_path: Path) -> None:
    """Averaging with the mirrored image keeps left and right apart: AP does not fall by more than two points."""
    plain = evaluate(artifact, people, journal=journal(tmp_path / "a"))
    flipped = evaluate(artifact, people, flip_test=True, journal=journal(tmp_path / "b"))
    assert flipped.metrics["AP"]["value"] > plain.metrics["AP"]["value"] - 0.02
    assert flipped.protocol["flip_test"] is True
    assert flipped.predictions[0]["keypoints"] != plain.predictions[0]["keypoints"]


def test_card_says_whether_the_flip_test_is_on(artifact: Artifact, people: KeypointDataset, tmp_path: Path) -> None:
    """Unless told, an evaluation does what the card's `flip_test` says."""
    card = structs.replace(artifact.card, decode={**artifact.card.decode, "flip_test": True})
    for told, done in ((None, True), (False, False)):
        result = evaluate(replace(artifact, card=card), people, flip_test=told, journal=journal(tmp_path / str(told)))
        assert result.protocol["flip_test"] is done


def test_journal_reads_back_and_drops_a_half_line(tmp_path: Path) -> None:
    """What was appended is there again; a line that a kill cut short is not, and the next append starts clean."""
    first = journal(tmp_path)
    first.append({0: {"x": 1}, 1: {"x": 2}})
    with first.path.open("a") as stream:
        stream.write('[2, {"x"')
    second = journal(tmp_path)
    assert second.done == {0: {"x": 1}, 1: {"x": 2}}
    second.append({2: {"x": 3}})
    assert journal(tmp_path).done == {0: {"x": 1}, 1: {"x": 2}, 2: {"x": 3}}
    second.close()
    assert journal(tmp_path).done == {}


def test_killed_evaluation_goes_on_where_it_stopped(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL in the middle, the same command finishes with the result of an undisturbed run."""
    code = (
        "import sys, time; from pathlib import Path; from sandglass.artifacts.artifact import load_artifact\n"
        "from sandglass.datasets import synthetic_people; from sandglass.measure.evaluation import evaluate\n"
        "def slow(done, total):\n    print(done, flush=True); time.sleep(0.1)\n"
        "evaluate(load_artifact(Path(sys.argv[1])), synthetic_people.load(limit=20), progress=slow)\n"
    )
    environment = {**os.environ, "SANDGLASS_CACHE": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code, str(artifact.folder)], stdout=subprocess.PIPE,
                               env=environment, text=True)  # fmt: skip
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (file,) = (tmp_path / "evaluations").glob("*.jsonl")
    dataset = synthetic_people.load(limit=20)
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path))
    resumed = evaluate(artifact, dataset)
    assert 0 < resumed.resumed < len(resumed.predictions)
    assert not file.exists()
    whole = evaluate(artifact, dataset, journal=journal(tmp_path / "other"))
    assert resumed.metrics == whole.metrics


def test_result_names_its_origin(artifact: Artifact, people: KeypointDataset, tmp_path: Path) -> None:
    """A result carries hashes, versions, machine and command."""
    origin = evaluate(artifact, people, journal=journal(tmp_path)).to_dict()["origin"]
    assert origin["artifact_sha256"] == load_artifact(artifact.folder).sha256
    assert origin["graph_sha256"]
    assert origin["checkpoint_sha256"]
    assert origin["backend_version"]
    assert origin["host"]["processor"]
    assert origin["command"]
