"""The command line: what works, and one clear line with exit code 2 for what does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.target import Target
from sandglass.backends import LayerDecision
from sandglass.cli.conformance.networks import save_graph
from sandglass.cli.main import main
from sandglass.core.errors import InputError
from sandglass.deployment import deploy
from sandglass.quantization.calibration import Calibration

CARD = """
name = "small"
task = "topdown-pose"
graph = "small.onnx"
[input]
size = [32, 24]
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
"""
SYNTHETIC = ["--quick", "--calibration-dataset", "synthetic-people", "--calibration-size", "4"]


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card beside its graph."""
    save_graph(tmp_path / "small.onnx")
    (tmp_path / "small.toml").write_text(CARD)
    return tmp_path / "small.toml"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_deploy_evaluate_benchmark_and_predict(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The four commands follow one another on one artifact, and write what they say."""
    from sandglass.datasets import synthetic_people
    from sandglass.vision.image import write_image

    out = tmp_path / "out"
    assert run("deploy", card, "--to", "onnxruntime:fp32", "onnxruntime:int8", "--out", out, *SYNTHETIC) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "onnxruntime-fp32",
        "onnxruntime-int8",
        "onnxruntime-int8.plan.json",
    ]
    assert [p.name for p in (out / "onnxruntime-int8").glob("*.onnx")] == ["model.onnx"]
    folders = [out / "onnxruntime-fp32", out / "onnxruntime-int8"]
    numbers = tmp_path / "numbers.json"
    assert run("evaluate", *folders, "--dataset", "synthetic-people", "--limit", 3, "--json", numbers) == 0
    fp32, int8 = json.loads(numbers.read_text())
    assert fp32["change"] is None
    assert set(int8["change"]) == set(int8["metrics"])
    chosen = [*folders, "--dataset", "synthetic-people", "--limit", 3, "--batch", 2, "--speed", "--json", numbers]
    assert run("evaluate", *chosen) == 0
    for row, folder in zip(json.loads(numbers.read_text()), folders, strict=True):
        (speed,) = row["speed"]
        assert (speed["batch"], speed["precision"], row["precision"]) == (2, *[folder.name.split("-")[1]] * 2)
        assert f"{speed['images_per_second']:.1f} |" in capsys.readouterr().out or folder != folders[0]
    assert run("benchmark", *folders, "--seconds", 0.3, "--threads", 1, "--json", numbers) == 0
    for row in json.loads(numbers.read_text()):
        assert 0 < row["latency_ms"]["minimum"] <= row["latency_ms"]["median"] <= row["latency_ms"]["p99"]
        assert row["peak_memory_mib"] > 10
    write_image(tmp_path / "in.png", synthetic_people.load(limit=1).read(0))
    assert run("predict", folders[0], tmp_path / "in.png", "--out", tmp_path / "p.png", "--json", numbers) == 0
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert len(json.loads(numbers.read_text())[0]["keypoints"]) == 17
    assert "| small |" in capsys.readouterr().out


def test_plan_is_used_again_and_edits_count(card: Path, tmp_path: Path) -> None:
    """A plan edited by hand decides which layers are int8."""
    out = tmp_path / "out"
    assert run("deploy", card, "--to", "onnxruntime:int8", "--out", out, *SYNTHETIC) == 0
    plan = json.loads((out / "onnxruntime-int8.plan.json").read_text())
    plan["layers"]["three"].update(keep_float=True, reason="by hand")
    (tmp_path / "edited.json").write_text(json.dumps(plan))
    again = tmp_path / "again"
    assert (
        run("deploy", card, "--to", "onnxruntime:int8", "--out", again, "--plan", tmp_path / "edited.json", *SYNTHETIC)
        == 0
    )
    decisions = load_artifact(again / "onnxruntime-int8").files()[1].layers
    assert decisions["three"] == LayerDecision("float", reason="by hand")
    assert decisions["pointwise"].arithmetic == "int8"


def test_models_and_doctor_list_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The zoo and the backends are printed and written."""
    assert run("models") == 0
    assert run("doctor", "--json", tmp_path / "d.json") == 0
    printed = capsys.readouterr().out
    assert "hourglass52-coco-384x384" in printed
    names = [row["backend"] for row in json.loads((tmp_path / "d.json").read_text())["backends"]]
    assert {"ncnn", "null", "onnxruntime", "openvino", "pytorch", "reference"} <= set(names)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with exit code 2 and without a stack trace; returns what it said."""
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert "sandglass: " in said or "failed: " in said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("command", "message", "fix"),
    [
        ("", "the command is missing", "see `sandglass --help`"),
        ("explode", "unknown command 'explode'", "known commands: deploy, quantize, "),
        ("deploy card", "--out is missing", "see `sandglass deploy --help`"),
        ("deploy all-of --out", "--out needs a value", "see `sandglass deploy all-of --help`"),
        ("deploy card --out o", "the target is missing", "give --to BACKEND[:PRECISION]"),
        ("fetch a b", "unexpected argument 'b'", "see `sandglass fetch --help`"),
        ("benchmark", "ARTIFACT is missing", "see `sandglass benchmark --help`"),
        ("benchmark a --second 3", "unknown option: --second. Did you mean --seconds?", "see "),
        ("benchmark a --seconds 0", "invalid value for --seconds: '0' is not a number above 0", "see "),
        ("benchmark a --batch 0", "'0' is not a whole number of 1 or more", "see "),
        ("quantize c --to b --out o --max-drop 101", "'101' is not a number from 0 to 100", "see "),
        ("quantize c --to b --out o --min-int8-share 2", "'2' is not a number from 0 to 1", "see "),
        ("quantize c --to b --out o --gain x", 'invalid value "x" for --gain. Choose from: "time", "work"', "see "),
        ("evaluate a --dataset x", "invalid value for --dataset: there is no dataset 'x'; known: cifar10, ", "see "),
        ("predict a i --out p --box 1,2,0,4", "'1,2,0,4' is not X,Y,W,H with a width and a height above 0", "see "),
        ("deploy c --out o --to null --for riscv", "unknown processor 'riscv'", "known: any, x86-avx2"),
        ("models --json a --json b", "--json may be given only once", "run the command once for each value"),
    ],
)
def test_usage_errors_are_a_line_and_a_fix(
    command: str, message: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, what was refused in one line, and what to do in the next."""
    assert run(*command.split()) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("sandglass: ")
    assert message in first
    assert second.startswith(f"  {fix}")


def test_unknown_names_list_the_known_ones(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors list similar models, and the known backends and precisions; nothing is written."""
    out = tmp_path / "out"
    assert "hourglass52-coco-256x256" in refused(capsys, "deploy", "hourglas", "--to", "ncnn", "--out", out)
    assert "ncnn, null" in refused(capsys, "deploy", card, "--to", "tensorflow", "--out", out)
    assert "known: fp32, fp16, int8" in refused(capsys, "deploy", card, "--to", "ncnn:int4", "--out", out)
    assert not out.exists()


def test_output_that_exists_is_kept_unless_forced(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An artifact of another graph is not replaced silently."""
    arguments = ("deploy", card, "--to", "onnxruntime", "--out", tmp_path / "out")
    assert run(*arguments) == 0
    before = load_artifact(tmp_path / "out/onnxruntime-fp32").sha256
    card.write_text(CARD.replace("123.675", "100.0"))
    assert "exists already" in refused(capsys, *arguments)
    assert load_artifact(tmp_path / "out/onnxruntime-fp32").sha256 == before
    assert run(*arguments, "--force") == 0
    assert load_artifact(tmp_path / "out/onnxruntime-fp32").sha256 != before


def test_output_that_cannot_be_written_is_one_line(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where the folder should be is reported."""
    (tmp_path / "out").touch()
    assert "cannot write" in refused(capsys, "deploy", card, "--to", "onnxruntime", "--out", tmp_path / "out")


def test_int8_without_calibration_says_what_to_give(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """int8 needs images, and the error names the options."""
    assert "--calibration" in refused(capsys, "deploy", card, "--to", "ncnn:int8", "--out", tmp_path / "out")


def test_zoo_model_without_checkpoint_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint's name and the two ways to it are told."""
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path))
    said = refused(capsys, "deploy", "hourglass52-coco-256x256", "--to", "ncnn", "--out", tmp_path / "out")
    assert "hourglass52_coco_256x256-4ec713ba_20200709.pth" in said
    assert "sandglass fetch" in said


def test_operator_that_a_backend_lacks_is_named(card: Path, tmp_path: Path) -> None:
    """A graph with an operator ncnn does not have is refused by its name; the other targets are made."""
    pytest.importorskip("ncnn")
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 32, 24] image) => (float[1, 3, 32, 24] heatmaps) { heatmaps = Trilu(image) }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "small.onnx")
    lacking, having = deploy(card, ["ncnn:fp32", "onnxruntime:fp32"], tmp_path / "out")
    assert lacking.error is not None
    assert "ncnn lacks the operator" in lacking.error.message
    assert "tril" in lacking.error.message.lower()
    assert not (tmp_path / "out/ncnn-fp32").exists()
    assert having.artifact is not None


def test_targets_are_read_with_a_default() -> None:
    """`ncnn` means its first precision."""
    assert str(Target.parse("ncnn")) == "ncnn:fp32"
    assert Target.parse("openvino:int8").folder == "openvino-int8"


def test_calibration_set_without_people_is_refused(card: Path, tmp_path: Path) -> None:
    """A dataset with no sample cannot calibrate."""
    from sandglass.datasets import KeypointDataset

    empty = KeypointDataset(
        "e", {"images": [], "annotations": [], "categories": []}, lambda i: np.zeros(1), {"dataset": "e"}
    )
    with pytest.raises(InputError, match="calibration set is empty"):
        deploy(card, ["onnxruntime:int8"], tmp_path / "out", calibration=Calibration(empty))
