"""A table of models, backends and precisions: run, killed, gone on with, changed, and with holes."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from documents import write_photo

from sandglass.cli.main import main
from sandglass.core.errors import BackendUnavailable, BudgetError
from sandglass.quantization.repairs import repair_names
from sandglass.search.timer import Clock
from sandglass.table import run as table_run
from unit.test_cli_classification import CARD, save_card

pytestmark = pytest.mark.slow

TABLE = """
backends = ["onnxruntime"]

[[row]]
model = "small.toml"
[row.data]
dataset = "synthetic-shapes"
limit = 20
seed = 1
[row.calibration]
dataset = "synthetic-shapes"
size = 8
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with a small untrained classifier."""
    save_card(tmp_path)
    (tmp_path / "table.toml").write_text(TABLE)
    return tmp_path / "table.toml"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short measurements."""
    monkeypatch.setattr(table_run, "benchmark_each", partial(table_run.benchmark_each, seconds=0.25))
    monkeypatch.setattr(table_run, "quantize", partial(table_run.quantize, timer=Clock(seconds=0.25)))


def run(table: Path) -> int:
    return main(["deploy", "all-of", str(table), "--out", str(table.parent / "out")])


def edit(table: Path, *changes: tuple[str, str]) -> None:
    text = table.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    table.write_text(text)


def cells(table: Path) -> dict[str, dict[str, object]]:
    """The cells of the JSON table by backend and precision."""
    found = json.loads((table.parent / "out/table.json").read_text())["cells"]
    return {f"{cell['backend']}:{cell['precision']}": cell for cell in found}


def test_table_has_float_and_int8_side_by_side(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Metric, change, latency, ratio and size of both, marked as a part; Markdown, CSV and JSON say the same."""
    assert run(table) == 0
    out = table.parent / "out"
    page, found = capsys.readouterr().out, cells(table)
    assert (out / "table.md").read_text() in page
    top, _, line = (out / "table.md").read_text().splitlines()[:3]
    header = [cell.strip() for cell in top.strip("| ").split("|")]
    for column in ("fp32 (95 %)", "int8 (95 %)", "int8 change in points (95 %)", "fp32 ms", "int8 / fp32", "int8 MB"):
        assert column in header
    assert "why empty" not in header
    assert line.count("20 of 400 images, drawn by class with seed 1") == 1
    (row,) = csv.DictReader((out / "table.csv").read_text().splitlines())
    fp32, int8 = found["onnxruntime:fp32"], found["onnxruntime:int8"]
    before, after = (entry["metrics"]["top-1"]["value"] for entry in (fp32, int8))
    assert float(row["fp32"]) == before
    assert f"{before:.3f} (" in line
    assert float(row["int8 change"]) == pytest.approx(100 * (after - before))
    assert float(row["int8 to fp32"]) == pytest.approx(
        int8["speed"]["latency_ms"]["median"] / fp32["speed"]["latency_ms"]["median"]
    )
    assert int(row["int8 bytes"]) == int8["bytes"] != fp32["bytes"]
    assert fp32["change"] is None
    assert int8["protocol"]["partial"] is True
    made = json.loads((out / "small/onnxruntime-int8/onnxruntime-int8.plan.json").read_text())["repairs"]
    assert made == list(repair_names())


def test_killed_run_goes_on(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was finished when a run was killed is not done again; another run does nothing at all."""
    out = table.parent / "out"
    finished = out / "small/onnxruntime-fp32/cell.json"
    command = [sys.executable, "-m", "sandglass", "deploy", "all-of", str(table), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not finished.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
    before = finished.read_bytes()
    assert not (out / "table.md").exists()
    assert run(table) == 0
    told = capsys.readouterr().err
    assert "1/2 small onnxruntime:fp32: finished before" in told
    assert "2/2 small onnxruntime:int8: building and evaluating" in told
    assert finished.read_bytes() == before
    first = (out / "table.md").read_text()
    assert run(table) == 0
    told = capsys.readouterr().err
    assert told.count("finished before") == 2
    assert "latency" not in told
    assert (out / "table.md").read_text() == first


def test_only_changed_cells_are_made_again(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another calibration is another int8; another draw, or a changed artifact, is made again; then latency too."""
    assert run(table) == 0
    edit(table, ("size = 8", "size = 9"))
    assert run(table) == 0
    told = capsys.readouterr().err
    assert "1/2 small onnxruntime:fp32: finished before" in told
    assert "2/2 small onnxruntime:int8: building and evaluating" in told
    edit(table, ("seed = 1", "seed = 2"))
    assert run(table) == 0
    told = capsys.readouterr().err
    assert told.count("building and evaluating") == 2
    assert "seed 2" in (table.parent / "out/table.md").read_text()
    (table.parent / "out/small/onnxruntime-fp32/onnxruntime-fp32/model.onnx").write_bytes(b"changed")
    assert run(table) == 0
    told = capsys.readouterr().err
    assert "1/2 small onnxruntime:fp32: building and evaluating" in told
    assert "2/2 small onnxruntime:int8: finished before" in told


def test_calibration_by_a_folder_of_photos(table: Path) -> None:
    """Calibration needs no labels, so it needs no dataset: `images` alone is a folder of photos, next to the table."""
    for number in range(8):
        write_photo(table.parent / "photos" / f"{number}.png", (48, 40), seed=number)
    edit(table, ('[row.calibration]\ndataset = "synthetic-shapes"', '[row.calibration]\nimages = "photos"'))
    assert run(table) == 0
    assert cells(table)["onnxruntime:int8"]["reason"] == ""


def test_holes_have_their_reasons(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A precision that a backend lacks, a runtime that is not installed, an operator, data and a checkpoint."""

    def absent() -> str:
        raise BackendUnavailable("OpenVINO is not installed", "pip install openvino")

    monkeypatch.setattr("sandglass.backends.openvino.available", absent)
    text = table.read_text()
    (table.parent / "other.toml").write_text(CARD.replace('"small"', '"no-data"'))
    (table.parent / "plain.toml").write_text(CARD.replace('"small"', '"no-calibration"'))
    edit(table, ('["onnxruntime"]', '["onnxruntime", "openvino", "reference"]'))
    rows = text[text.index("[[row]]") :]
    missing = rows.replace("small.toml", "other.toml").replace('"synthetic-shapes"\nlimit', '"imagenet"\nlimit')
    plain = rows[: rows.index("[row.calibration]")].replace("small.toml", "plain.toml")
    zoo = rows.replace("small.toml", "resnet18-cifar10")
    table.write_text(table.read_text() + missing + plain + zoo)
    assert run(table) == 2
    page = (table.parent / "out/table.md").read_text()
    reasons = {}
    for row in csv.DictReader((table.parent / "out/table.csv").read_text().splitlines()):
        reasons[row["model"], row["backend"]] = row["why empty"]
        assert row["why empty"] in page
        assert (row["fp32"] != "" and row["int8"] != "") or row["why empty"]
    assert reasons["small", "onnxruntime"] == ""
    assert reasons["small", "openvino"] == "not installed: OpenVINO is not installed (pip install openvino)"
    assert reasons["small", "reference"].startswith("int8: failed: reference does not support int8")
    assert reasons["no-data", "onnxruntime"].startswith("no data: imagenet needs images")
    assert reasons["no-calibration", "onnxruntime"].startswith("int8: no data: int8 needs calibration images")
    assert reasons["resnet18-cifar10", "onnxruntime"].startswith("no checkpoint: the checkpoint resnet18_b16x8_cifar10")
    assert cells(table)["reference:fp32"]["reason"].startswith("no checkpoint")


@pytest.mark.slow
def test_search_under_a_budget(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_drop` searches; a budget that cannot be kept is a reason, which is known to the next run."""
    edit(table, ('["onnxruntime"]', '["onnxruntime"]\nmax_drop = 100\nmin_fidelity = 0'))
    assert run(table) == 0
    cell = cells(table)["onnxruntime:int8"]
    assert "points" in str(cell["verdict"])
    assert "int8: search with a drop of at most 100 points and a fidelity of at least 0" in capsys.readouterr().out
    edit(table, ("max_drop = 100", "max_drop = 0.1"))

    def missed(*_: object, **__: object) -> None:
        raise BudgetError("top-1 drops by 9 points")

    monkeypatch.setattr(table_run, "quantize", missed)
    assert run(table) == 2
    assert cells(table)["onnxruntime:int8"]["reason"] == "budget missed: top-1 drops by 9 points"
    assert run(table) == 2
    told = capsys.readouterr().err
    assert told.count("onnxruntime:int8: building and evaluating") == 1
    assert told.count("onnxruntime:int8: finished before") == 1
    assert cells(table)["onnxruntime:fp32"]["bytes"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("backends = [", "backend = [", "unknown field 'backend', expected backends, max_drop"),
        ('["onnxruntime"]', '["onnx"]', "backends has 'onnx', expected one of "),
        ('["onnxruntime"]', "[]", "backends is \\[\\], expected list of length >= 1"),
        ('["onnxruntime"]', '"onnxruntime"', "backends is 'onnxruntime', expected list"),
        ('["onnxruntime"]', '["onnxruntime"]\nprecisions = ["fp8"]', "precisions has 'fp8', expected one of fp16"),
        ('["onnxruntime"]', '["onnxruntime"]\nmax_drop = true', "max_drop is True, expected float"),
        ('["onnxruntime"]', '["onnxruntime"]\nmin_fidelity = 0.9', "min_fidelity has no effect without max_drop"),
        ("[[row]]", "[row]", "row is {.*, expected list"),
        ('model = "small.toml"', 'model = "smal.toml"', r"row\[0\].model is 'smal.toml': cannot read model card"),
        ('model = "small.toml"', "model = 3", r"row\[0\].model is 3, expected str"),
        ('model = "small.toml"', "", r"the field 'row\[0\].model' is missing"),
        ("limit = 20", "limit = 0", r"row\[0\].data.limit is 0, expected int >= 1"),
        ("limit = 20", 'images = ["a"]', r"row\[0\].data.images is \['a'\], expected str"),
        ("limit = 20", "draw = 20", r"unknown field 'row\[0\].data.draw'"),
        ('"synthetic-shapes"', '"shapes"', r"row\[0\].data: dataset is 'shapes', expected one of "),
        ('[row.calibration]\ndataset = "synthetic-shapes"', "[row.calibration]",
         r"row\[0\].calibration: without a dataset it needs images, a folder of photos"),
        ("size = 8", 'method = "max"', r"row\[0\].calibration: method is 'max', expected one of auto"),
        ("size = 8", 'size = 8\n[[row]]\nmodel = "small.toml"\ndata = {dataset = "imagenet"}',
         "two rows have the model 'small'"),
        ("[[row]]", "[[row]", "is not a TOML file"),
    ],
)  # fmt: skip
def test_wrong_table_is_one_line(
    table: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    """The file, the key and the value are named; nothing is written."""
    edit(table, (old, new))
    assert run(table) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert str(table) in told[0]
    assert re.search(message, told[0])
    assert not (table.parent / "out").exists()


def test_table_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line; and the options of `deploy` are another command's."""
    assert run(tmp_path / "none.toml") == 2
    assert "cannot read table" in capsys.readouterr().err
