"""What the command line takes: repeated options, other things among artifacts, photos, datasets of other tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandglass.cli import main
from sandglass.cli.conformance.networks import save_graph
from sandglass.cli.inputs import load_images
from sandglass.cli.options import Data, Draw
from sandglass.core.errors import DatasetError
from sandglass.quantization.plan import Plan
from sandglass.vision.image import write_image
from unit.test_cli import CARD, SYNTHETIC
from unit.test_cli_classification import save_card as save_classifier
from unit.test_text_detection import ink_detector


def save_pose(folder: Path) -> Path:
    """A card over a small network of heatmaps."""
    save_graph(folder / "small.onnx")
    (folder / "small.toml").write_text(CARD)
    return folder / "small.toml"


CARDS = {"classification": save_classifier, "text detection": ink_detector, "pose": save_pose}


def run(*arguments: object) -> int:
    return main.main([str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos of several sizes and formats, one of them in a folder, and other files."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    for name, size in (("a.jpg", (60, 80)), ("b.PNG", (90, 40)), ("inside/c.bmp", (50, 50)), (".hidden.png", (9, 9))):
        write_image(folder / name, random.integers(0, 256, (*size, 3), np.uint8))
    (folder / "notes.txt").write_text("not a photo")
    return folder


# Options that are repeated


def parsed(*arguments: object) -> dict[str, Any]:
    """The values of a command's arguments, without running it."""
    _, bound, _ = main.app().parse_args([str(argument) for argument in arguments])
    return bound.arguments


def test_targets_and_shapes_accumulate() -> None:
    """`--to a --to b` is `--to a b`, and lists of shapes follow one another."""
    command = ["deploy", "card", "--out", "o", "--to", "onnxruntime:fp32", "--to", "ncnn:int8", "null", "--shapes",
               "64x64,128x64", "--shapes", "32x32"]  # fmt: skip
    values = parsed(*command)
    assert values["targets"].to == ("onnxruntime:fp32", "ncnn:int8", "null")
    assert values["shapes"].shapes == ([(64, 64), (128, 64)], [(32, 32)])
    assert "shapes" not in parsed(*command[:6])  # the default is not what was collected before


def test_other_options_of_several_values_accumulate() -> None:
    """Repairs, boxes and mirrors."""
    repairs = parsed("sensitivity", "card", "--to", "ncnn:int8", "--without", "a", "--without", "b")["repairs"]
    assert repairs.without == ("a", "b")
    boxes = parsed("predict", "a", "i.png", "--out", "o.png", "--box", "1,2,3,4", "--box=-5,6,7,8")["boxes"]
    assert boxes == ((1, 2, 3, 4), (-5, 6, 7, 8))
    assert parsed("fetch", "m", "--mirror", "a", "--mirror", "b")["mirror"] == ("a", "b")


def test_artifacts_of_repeated_targets_are_all_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each target that was named is deployed, and the JSON names its folder."""
    out, targets = tmp_path / "out", ("--to", "onnxruntime:fp32", "--to", "null:fp32")
    assert run("deploy", save_pose(tmp_path), *targets, "--out", out, "--json", "-") == 0
    assert sorted(path.name for path in out.iterdir()) == ["null-fp32", "onnxruntime-fp32"]
    results = json.loads(capsys.readouterr().out)
    assert [result["artifact"] for result in results] == [str(out / "onnxruntime-fp32"), str(out / "null-fp32")]
    assert all(result["bytes"] >= 0 and result["error"] is None for result in results)


@pytest.mark.parametrize("command", ["quantize", "sensitivity"])
def test_second_target_of_a_command_for_one_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What would keep the last target alone says so."""
    assert run(command, "card", "--to", "ncnn:int8", "--to", "openvino:int8", "--out", "o") == 2
    assert "--to may be given only once" in capsys.readouterr().err


# Other things among artifacts


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What `deploy` leaves: artifacts and the plan; and files of one's own."""
    target = tmp_path / "out"
    card = save_pose(tmp_path)
    assert run("deploy", card, "--to", "onnxruntime:fp32", "onnxruntime:int8", "--out", target, *SYNTHETIC) == 0
    (target / "notes").mkdir()
    return target


ON_SYNTHETIC = ("--dataset", "synthetic-people", "--limit", 3)


@pytest.mark.parametrize(
    ("command", "options"),
    [("evaluate", ON_SYNTHETIC), ("benchmark", ("--seconds", 0.1)), ("inspect", ())],
)
def test_what_is_not_an_artifact_is_skipped_with_a_line(
    command: str, options: tuple[object, ...], out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command that measures artifacts takes `out/*`, though the plan and a folder are among them."""
    capsys.readouterr()
    numbers = tmp_path / "numbers.json"
    assert run(command, *sorted(out.iterdir()), *options, "--json", numbers) == 0
    told = capsys.readouterr().err
    assert f"skipped {out / 'onnxruntime-int8.plan.json'}: it is not an artifact" in told
    assert f"skipped {out / 'notes'}: it is not an artifact" in told
    assert len(json.loads(numbers.read_text())) == 2


def test_one_artifact_is_reported_as_before(out: Path, tmp_path: Path) -> None:
    """`inspect` of one artifact writes an object, not a list of one."""
    numbers = tmp_path / "numbers.json"
    assert run("inspect", out / "onnxruntime-int8", "--json", numbers) == 0
    assert json.loads(numbers.read_text())["precision"] == "int8"


def test_error_of_one_of_several_is_said_and_stops_no_other(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`inspect` beside a float artifact of another graph fails for each, in a line, with exit code 2."""
    folders = [out / "onnxruntime-fp32", out / "onnxruntime-int8"]
    assert run("inspect", *folders, "--against", folders[1]) == 2
    said = capsys.readouterr().err
    assert all(f"{folder}: " in said for folder in folders)


@pytest.mark.parametrize("command", ["evaluate", "benchmark", "inspect", "tune"])
def test_nothing_left_is_an_error(command: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any artifact the command fails; where artifacts lie in the folder, it names them."""
    options = ON_SYNTHETIC if command == "evaluate" else ()
    assert run(command, out / "onnxruntime-int8.plan.json", out / "notes", *options) == 2
    assert "not an artifact, which is a folder with sandglass.json" in capsys.readouterr().err
    assert run(command, out, *options) == 2
    assert f"give {out / 'onnxruntime-fp32'} {out / 'onnxruntime-int8'}" in capsys.readouterr().err


def test_path_that_does_not_exist_is_not_skipped(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that was mistyped is an error, also among others."""
    assert run("benchmark", out / "onnxruntime-fp32", out / "onnxruntime-int4") == 2
    assert f"{out / 'onnxruntime-int4'} does not exist" in capsys.readouterr().err


def test_artifact_that_was_changed_is_not_skipped(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage is an error, also among others."""
    (out / "onnxruntime-int8/model.onnx").write_bytes(b"other")
    assert run("benchmark", *sorted(out.iterdir())) == 2
    assert "was changed" in capsys.readouterr().err


# Photos without labels


@pytest.mark.parametrize("kind", CARDS)
def test_folder_of_photos_calibrates_a_model_of_any_task(kind: str, photos: Path, tmp_path: Path) -> None:
    """`--calibration DIR` is enough: neither a dataset nor annotations are named."""
    out = tmp_path / "out"
    card = CARDS[kind](tmp_path)
    assert run("deploy", card, "--to", "onnxruntime:int8", "--out", out, "--calibration", photos, "--quick") == 0
    assert Plan.load(out / "onnxruntime-int8.plan.json").calibration == {
        "dataset": "photos, photos without annotations", "samples": 3, "seed": 0
    }  # fmt: skip


@pytest.mark.parametrize("kind", CARDS)
def test_photos_are_evaluated_without_metrics(kind: str, photos: Path, tmp_path: Path) -> None:
    """Where no truths are known the metrics are not numbers, and predictions are made all the same."""
    from sandglass import evaluate, load_artifact, load_card
    from sandglass.measure.evaluation import has_truths

    card = CARDS[kind](tmp_path)
    assert run("deploy", card, "--to", "onnxruntime", "--out", tmp_path / "out") == 0
    dataset = load_images(Data("evaluation", images=photos), load_card(card), Draw(limit=2, seed=1))
    result = evaluate(load_artifact(tmp_path / "out/onnxruntime-fp32"), dataset)
    assert len(result.predictions) == 2
    assert not has_truths(cli_task(kind), result.metrics)
    assert result.protocol["subset"] == "2 of 3 images, drawn by seed 1"


def cli_task(kind: str) -> object:
    from sandglass.core import discover

    return discover.load("tasks", {"pose": "topdown-pose"}.get(kind, kind.replace(" ", "-")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda photos: ["--calibration", photos / "nothing"], "there is no folder of images"),
        (lambda photos: ["--calibration", photos / "a.jpg"], "a.jpg is a file"),
        (lambda photos: ["--calibration", photos.parent / "empty"], "empty has no images"),
        (lambda photos: ["--calibration", photos, "--calibration-annotations", photos / "x.json"], "needs a format"),
        (lambda photos: ["--calibration-annotations", photos / "x.json"], "needs a format"),
        (lambda photos: ["--calibration-dataset", "imagenet"], "imagenet needs images"),
    ],
)
def test_what_photos_lack_is_one_line(
    options: Callable[[Path], list[object]], message: str, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A folder that is missing, a file, a folder without images, and annotations of a format that is not named."""
    (tmp_path / "empty").mkdir()
    card = save_classifier(tmp_path)
    assert run("deploy", card, "--to", "onnxruntime:int8", "--out", tmp_path / "out", *options(photos)) == 2
    assert message in capsys.readouterr().err


def test_search_without_calibration_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`quantize` and `sensitivity` need images."""
    card = save_classifier(tmp_path)
    assert run("sensitivity", card, "--to", "onnxruntime:int8") == 2
    assert "the calibration images are missing" in capsys.readouterr().err
    assert run("quantize", card, "--to", "onnxruntime:int8", "--out", tmp_path / "out") == 2
    assert "the evaluation images are missing" in capsys.readouterr().err


# Datasets of another task


@pytest.mark.parametrize("kind", CARDS)
@pytest.mark.parametrize("name", ["synthetic-people", "synthetic-text", "synthetic-shapes"])
def test_dataset_of_another_task_is_one_clear_line(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model is calibrated and evaluated on its own kind of dataset; for another one the error names both."""
    if {"classification": "synthetic-shapes", "text detection": "synthetic-text", "pose": "synthetic-people"}[
        kind
    ] == name:
        return
    card, out = CARDS[kind](tmp_path), tmp_path / "out"
    assert run("deploy", card, "--to", "onnxruntime:int8", "--out", out, "--calibration-dataset", name) == 2
    assert f"the dataset {name} holds" in capsys.readouterr().err
    assert run("deploy", card, "--to", "onnxruntime", "--out", out) == 0
    assert run("evaluate", out / "onnxruntime-fp32", "--dataset", name, "--limit", 3) == 2
    told = capsys.readouterr().err
    assert f"the dataset {name} holds" in told
    assert "use one of" in told
    for command in ("quantize", "sensitivity"):
        options = ["--out", tmp_path / "search", "--evaluation-dataset", name] if command == "quantize" else []
        assert run(command, card, "--to", "onnxruntime:int8", "--calibration-dataset", name, *options) == 2
        assert f"the dataset {name} holds" in capsys.readouterr().err


def test_python_interface_raises_the_same(tmp_path: Path) -> None:
    """`sandglass.evaluate` and `sandglass.deploy` raise DatasetError, before anything is computed."""
    import sandglass

    card = save_classifier(tmp_path)
    people = sandglass.load_dataset("synthetic-people", limit=2)
    with pytest.raises(DatasetError, match="reads images with one class each"):
        sandglass.deploy(card, ["onnxruntime:int8"], tmp_path / "out", calibration=sandglass.Calibration(people))
    (outcome,) = sandglass.deploy(card, ["onnxruntime"], tmp_path / "out")
    assert outcome.artifact
    with pytest.raises(DatasetError, match="people with keypoints"):
        sandglass.evaluate(outcome.artifact, people)
