"""The embedded bottom-up model, from the card to a picture with several people in it, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sandglass.cli.main import main
from sandglass.datasets import synthetic_crowd
from sandglass.tasks import bottomup_pose
from sandglass.vision.image import read_image, write_image

pytestmark = pytest.mark.slow

MODEL = "hrnet-ae-tiny-synthetic"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_deploy_evaluate_and_predict_several_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Deployed in float and in int8, evaluated on unseen scenes, and everybody in one of them drawn."""
    pytest.importorskip("torch")
    out, numbers = tmp_path / "out", tmp_path / "numbers.json"
    calibration = ["--calibration-dataset", "synthetic-crowd", "--calibration-size", "16"]
    assert (
        run("deploy", MODEL, "--to", "onnxruntime:fp32", "onnxruntime:int8", "--out", out, *calibration, "--quick") == 0
    )
    folders = [out / "onnxruntime-fp32", out / "onnxruntime-int8"]
    evaluate = ["--dataset", "synthetic-crowd", "--limit", "40", "--json", numbers]
    assert run("evaluate", *folders, *evaluate) == 0
    fp32, int8 = json.loads(numbers.read_text())
    assert fp32["protocol"]["boxes"].startswith("none")
    assert fp32["metrics"]["AP"]["value"] > 0.5
    assert abs(int8["change"]["AP"]["value"]) < 0.1
    assert run("evaluate", folders[0], *evaluate, "--flip-test") == 0
    (flipped,) = json.loads(numbers.read_text())
    assert flipped["protocol"]["flip_test"] is True
    assert flipped["metrics"]["AP"]["value"] > fp32["metrics"]["AP"]["value"] - 0.03

    crowd = synthetic_crowd.load(limit=40)
    truth = max(bottomup_pose.truths(crowd), key=lambda image: len(image["people"]))
    write_image(tmp_path / "in.png", crowd.read(truth["image_id"]))
    assert run("predict", folders[0], tmp_path / "in.png", "--out", tmp_path / "p.png", "--json", numbers) == 0
    (found,) = json.loads(numbers.read_text())
    assert len(truth["people"]) >= 4
    seen = [person for person in found["people"] if person["score"] > bottomup_pose.VISIBLE]
    assert len(seen) >= len(truth["people"]) - 1
    assert bottomup_pose.agreement(truth, found)["OKS"] > 0.5
    drawn = (read_image(tmp_path / "p.png") != crowd.read(truth["image_id"])).any(axis=2)
    for person in seen:
        joints = np.array([joint for joint in person["keypoints"] if joint[2] > bottomup_pose.VISIBLE])
        x, y = np.clip(np.rint(joints[:, :2]).astype(int), 0, [drawn.shape[1] - 1, drawn.shape[0] - 1]).T
        assert drawn[y, x].mean() > 0.9
    assert f"| {MODEL} |" in capsys.readouterr().out
