"""Classification through the command line: a part of a dataset is marked wherever its numbers are."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from graphs import network, normal

from sandglass.cli.main import main
from sandglass.datasets import synthetic_shapes
from sandglass.vision.image import read_image, write_image

pytestmark = pytest.mark.slow

GRAPH = """
agraph (float[1, 3, 32, 32] image) => (float[1, 10] logits) {
    one = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w1)
    two = Relu (one)
    pooled = GlobalAveragePool (two)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, w2, b2)
}
"""
CARD = """
name = "small"
task = "classification"
graph = "small.onnx"
[input]
size = [32, 32]
mean = [120, 120, 120]
std = [60, 60, 60]
[decode]
short_side = 40
classes = "synthetic-shapes"
"""
CALIBRATION = ("--calibration-dataset", "synthetic-shapes", "--calibration-size", 12)


def save_card(folder: Path) -> Path:
    """A card over a small untrained classifier."""
    weights = {"w1": normal(0, 16, 3, 3, 3), "w2": normal(1, 10, 16), "b2": normal(2, 10)}
    onnx.save(network(GRAPH, weights), folder / "small.onnx")
    (folder / "small.toml").write_text(CARD)
    return folder / "small.toml"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A card of its own."""
    return save_card(tmp_path)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_part_is_marked_in_table_and_json(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--limit` and `--seed` draw by class; every row and the JSON say so. The whole set has no such column."""
    out, numbers = tmp_path / "out", tmp_path / "numbers.json"
    assert run("deploy", card, "--to", "onnxruntime:fp32", "onnxruntime:int8", "--out", out, *CALIBRATION) == 0
    folders = [out / "onnxruntime-fp32", out / "onnxruntime-int8"]
    command = ["evaluate", *folders, "--dataset", "synthetic-shapes", "--json", numbers]
    capsys.readouterr()
    assert run(*command, "--limit", 20, "--seed", 5) == 0
    table = capsys.readouterr().out
    assert table.count("20 of 400 images, drawn by class with seed 5") == 3  # two rows, and the protocol below
    for row in json.loads(numbers.read_text()):
        assert row["samples"] == 20
        assert row["protocol"]["partial"] is True
        assert set(row["metrics"]) == {"top-1", "top-5"}
    assert run(*command) == 0
    assert "subset |" not in capsys.readouterr().out
    assert "partial" not in json.loads(numbers.read_text())[0]["protocol"]


@pytest.mark.slow
def test_search_marks_its_part_too(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`quantize` measures on the part that it was given, and its table says which."""
    arguments = ["quantize", card, "--to", "onnxruntime:int8", "--out", tmp_path / "out", *CALIBRATION]
    evaluation = ["--evaluation-dataset", "synthetic-shapes", "--limit", 30, "--seed", 2, "--max-drop", 100]
    assert run(*arguments, *evaluation, "--min-fidelity", 0) == 0
    table = capsys.readouterr().out
    assert table.count("30 of 400 images, drawn by class with seed 2") == 3
    assert "same class to float" in table


def test_predict_draws_and_tells_the_five_likeliest(card: Path, tmp_path: Path) -> None:
    """The picture is written on, and the JSON has the names."""
    assert run("deploy", card, "--to", "onnxruntime:fp32", "--out", tmp_path / "out") == 0
    image = synthetic_shapes.load(limit=1)
    pixels = image.read(image.image_ids[0])
    write_image(tmp_path / "in.png", pixels)
    arguments = ["predict", tmp_path / "out/onnxruntime-fp32", tmp_path / "in.png", "--out", tmp_path / "p.png"]
    assert run(*arguments, "--json", tmp_path / "p.json") == 0
    assert (read_image(tmp_path / "p.png") != pixels).any()
    (found,) = json.loads((tmp_path / "p.json").read_text())
    assert len(found["names"]) == 5
    assert found["names"][0] == synthetic_shapes.CLASSES[found["classes"][0]]
    assert sum(found["scores"]) == pytest.approx(1, abs=1e-4)
