"""The search under a budget on the embedded model, through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphs import network, normal
from sandglass.artifacts import parity
from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.target import Target
from sandglass.cli.main import main
from sandglass.core.errors import CrashError, InputError
from sandglass.graph.io import save_graph
from sandglass.measure.benchmarking import Speed, benchmark
from sandglass.quantization.plan import Plan
from sandglass.quantization.repaired_plan import EVENING, REPAIRS
from sandglass.quantization.repairs.equalize import Link
from sandglass.search.budget import Request, judge
from sandglass.search.candidates import Choice
from sandglass.search.costs import Cost
from sandglass.search.fidelity_check import Kept
from sandglass.search.timing import Timed

pytestmark = pytest.mark.slow

WANTED = Request(Target("reference", "fp32"), 0.5, "AP", 0.985, ())
SYNTHETIC = ["--calibration-dataset", "synthetic-people", "--evaluation-dataset", "synthetic-people"]


NETWORK = """g (float[1, 3, 32, 24] image) => (float[1, 17, 16, 12] heatmaps) {
    a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w1) b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, w2) d = Relu(c) heatmaps = Conv(d, w3) }"""


def search(out: Path, *more: str, source: str = "hourglass-tiny-synthetic") -> int:
    """Run `sandglass quantize`, by default on the embedded model."""
    pytest.importorskip("openvino")
    given = ["--calibration-size", "4", "--limit", "5", "--out", str(out), *SYNTHETIC, *more]
    return main(["quantize", source, "--to", "openvino:int8", *given])


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings that are too short to mean much, and that are not repeated where the machine is busy."""
    from sandglass.search import quantize, workbench

    def once(artifacts: Sequence[Artifact], **given: object) -> list[Speed]:
        return benchmark(artifacts, seconds=0.3)

    for module in (workbench, quantize):
        monkeypatch.setattr(module, "undisturbed", once)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """The card of a network of three layers."""
    weights = {"w1": normal(1, 8, 3, 3, 3), "w2": normal(2, 8, 8, 3, 3), "w3": normal(3, 17, 8, 1, 1)}
    save_graph(network(NETWORK, weights), tmp_path / "small.onnx")
    text = """name = "small"
        task = "topdown-pose"
        graph = "small.onnx"
        input = {size = [32, 24], mean = [123.675, 116.28, 103.53], std = [58.395, 57.12, 57.375]}"""
    (tmp_path / "small.toml").write_text(text)
    return str(tmp_path / "small.toml")


def test_a_search_begins_where_int8_as_a_whole_would_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it gives back to float mends that: it is judged by fidelity and metric, not by correlation."""
    monkeypatch.setitem(parity.LEAST_CORRELATION, "int8", 1.1)
    asked = ["--max-drop", "20", "--min-fidelity", "0.9", "--gain", "work"]
    assert search(tmp_path / "out", *asked) == 0


def test_a_search_ends_in_an_artifact_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The artifact, the float one and the plan are there; every layer has a decision; the result is JSON too."""
    out = tmp_path / "out"
    asked = ["--max-drop", "20", "--min-fidelity", "0.9", "--gain", "work"]  # times would depend on what else runs
    assert search(out, *asked, "--json", str(tmp_path / "r.json")) == 0
    printed = capsys.readouterr()
    assert "points" in printed.out
    assert any(" left)" in line for line in printed.err.splitlines() if line.startswith("sensitivity: "))
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["met"] is True
    assert 0.5 < result["int8_share_of_macs"] <= 1
    assert {layer["runs_in"] for layer in result["layers"]} <= {"int8", "float"}
    assert all(layer["because"] for layer in result["layers"] if layer["runs_in"] == "float")
    assert result["fidelity"][1]["OKS"]["value"] > 0.9
    plan = json.loads((out / "plan.json").read_text())
    rest = [name for name in REPAIRS if name not in EVENING]
    assert [name for name in plan["repairs"] if name not in EVENING] == rest  # which is kept where it leaves less noise
    decisions = load_artifact(out / "openvino-int8").files()[1].layers
    floats = {layer["name"] for layer in result["layers"] if layer["runs_in"] == "float"}
    assert all(decisions[name].arithmetic == "float" for name in floats)
    assert load_artifact(out / "openvino-fp32").precision == "fp32"


def test_a_budget_that_cannot_be_kept_publishes_nothing(
    tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drop is told, exit code 2, no int8 artifact; then another search in that folder is refused by name."""
    from sandglass.search import quantize

    monkeypatch.setattr(quantize, "judge", lambda *given: (False, "AP drops by 9 points, over the budget"))
    out = tmp_path / "out"
    assert search(out, "--min-fidelity", "0", source=small) == 2
    assert "AP drops by 9 points" in capsys.readouterr().err
    assert not (out / "openvino-int8").exists()
    assert not (out / "plan.json").exists()
    assert search(out, "--min-fidelity", "0", "--max-drop", "3", source=small) == 2
    assert "begun with another max_drop" in capsys.readouterr().err
    assert search(out, "--min-fidelity", "0", "--best-effort", source=small) == 0
    assert (out / "openvino-int8" / "sandglass.json").exists()


def test_as_much_runs_in_int8_as_is_asked_for(
    tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layers that int8 makes slower among them; what no choice has is told."""
    from sandglass.search import workbench

    def slower(bench: workbench.Workbench, folder: Path, costs: Sequence[Cost], *rest: object) -> Timed:
        """Every layer takes a tenth longer in int8."""
        ways = [tuple(replace(way, milliseconds=1.1) for way in cost.ways) for cost in costs]
        changed = [replace(cost, float_ms=1.0, ways=given) for cost, given in zip(costs, ways, strict=True)]
        return Timed(changed, [], float(len(costs)))

    monkeypatch.setattr(workbench.Workbench, "timed", slower)
    asked = ["--min-fidelity", "0.1", "--max-drop", "100", "--json", str(tmp_path / "r.json")]
    for share, expected in (("0", 0.0), ("0.5", 1.0)):
        assert search(tmp_path / share, *asked, "--min-int8-share", share, source=small) == 0
        assert json.loads((tmp_path / "r.json").read_text())["int8_share_of_macs"] == expected
    monkeypatch.setattr(workbench.Workbench, "share", lambda *given: 0.4)
    assert search(tmp_path / "none", *asked, "--min-int8-share", "0.5", source=small) == 2
    assert "no choice runs 50% of the multiply-accumulates in int8; 40% can at most" in capsys.readouterr().err


def test_splits_are_timed_and_written(tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow tensor is there twice in the plan, and the search has timed what float layers take longer by it."""
    from sandglass.search import workbench

    text = NETWORK.replace("d = Relu(c) heatmaps = Conv(d, w3)", "d = Conv(c, w4) e = Relu(d) heatmaps = Conv(e, w3)")
    weights = {"w1": normal(1, 8, 3, 3, 3), "w2": normal(2, 4, 8, 3, 3), "w4": normal(4, 8, 4, 1, 1)}
    save_graph(network(text, weights | {"w3": normal(3, 17, 8, 1, 1)}), tmp_path / "small.onnx")
    told, splitting = [], workbench.splitting

    def seen(costs: Sequence[Cost], around: Sequence[Link], longer: Mapping[str, float]) -> Any:
        told.append(([link.tensor for link in around], set(longer)))
        return splitting(costs, around, longer)

    monkeypatch.setattr(workbench, "splitting", seen)
    assert search(tmp_path / "out", "--min-fidelity", "0", "--max-drop", "100", source=small) == 0
    assert told == [(["c"], {"a", "c", "d", "heatmaps"})]
    assert json.loads((tmp_path / "out/plan.json").read_text())["split"] == ["c"]


@pytest.mark.parametrize("crashes", [False, True], ids=["loses too much", "crashes"])
def test_next_choice_is_built_where_the_fastest_does_not_do(
    tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch, crashes: bool
) -> None:
    """The metric refuses the first choice, or its runtime crashes: the next one is published, no further one built."""
    from sandglass.search import quantize, workbench

    given, tried = list[int](), workbench.Workbench.tried

    def choices(costs: Sequence[Cost], *rest: object) -> Iterator[Choice]:
        for count in (3, 2, 1):
            given.append(count)
            names = [cost.name for cost in costs]
            yield Choice(dict.fromkeys(names[:count], 8), dict.fromkeys(names[count:], "noisy"), 1.0, 0.0, 0.0)

    def crashing(bench: workbench.Workbench, folder: Path, plan: Plan) -> Artifact:
        if crashes and folder.name == "candidate0":
            raise CrashError("it crashed")
        return tried(bench, folder, plan)

    monkeypatch.setattr(workbench.Workbench, "tried", crashing)
    monkeypatch.setattr(quantize, "search", choices)
    monkeypatch.setattr(quantize, "judge", lambda *asked: (len(given) == 2, "told"))
    assert search(tmp_path / "out", "--gain", "work", source=small) == 0
    assert given == [3, 2]
    layers = json.loads((tmp_path / "out/plan.json").read_text())["layers"]
    assert sum(not layer["keep_float"] for layer in layers.values()) == 2


@pytest.mark.parametrize(("kept", "count"), [(True, 3), (False, 1)])
def test_full_int8_is_published_where_it_is_faster_after_all(
    tmp_path: Path,
    small: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: bool,
    count: int,
) -> None:
    """Costs foretold that one layer in int8 is fastest; measured, three are, if they keep the budget too."""
    from sandglass.search import quantize

    def choices(costs: Sequence[Cost], *rest: object) -> Iterator[Choice]:
        first, *others = [cost.name for cost in costs]
        yield Choice({first: 8}, dict.fromkeys(others, "gains no time"), 1.0, 0.0, 0.0)

    def timed(artifacts: Sequence[Artifact], **given: object) -> list[Speed]:
        speeds = benchmark(artifacts, seconds=0.1)
        return [replace(speed, median=median) for speed, median in zip(speeds, (2.0, 1.0, 3.0), strict=True)]

    verdicts = iter([(True, "told"), (kept, "told")])
    monkeypatch.setattr(quantize, "search", choices)
    monkeypatch.setattr(quantize, "undisturbed", timed)
    monkeypatch.setattr(quantize, "judge", lambda *given: next(verdicts))
    assert search(tmp_path / "out", source=small) == 0
    layers = json.loads((tmp_path / "out/plan.json").read_text())["layers"]
    assert sum(not layer["keep_float"] for layer in layers.values()) == count
    decisions = load_artifact(tmp_path / "out/openvino-int8").files()[1].layers
    assert sum(decision.arithmetic == "int8" for decision in decisions.values()) == count
    told = capsys.readouterr()
    assert "full int8 is faster after all" in told.err
    assert ("no faster than the float artifact" in told.out) is not kept


GOOD = Kept(0.99, 0.988, 0.986)
CLOSE = Kept(0.99, 0.987, 0.984)
POOR = Kept(0.98, 0.98, 0.98)
WITHIN = {"value": -0.001, "low": -0.004, "high": 0.002}
WIDE = {"value": -0.001, "low": -0.021, "high": 0.02}
EDGE = {"value": -0.004999, "low": -0.021, "high": 0.02}
OVER = {"value": -0.006, "low": -0.021, "high": 0.02}


@pytest.mark.parametrize(
    ("change", "kept", "met", "told"),
    [
        (
            WITHIN,
            GOOD,
            True,
            "0.10 points (95 %: -0.20 .. 0.40), within 0.5; fidelity is 0.9900, 0.9880 with the calibration images",
        ),
        (WIDE, GOOD, True, "100 images are too few to prove 0.5, about 2500 would do"),
        (EDGE, GOOD, True, "100 images are too few to prove 0.5, and the drop is too near to it for more to do"),
        (OVER, GOOD, False, "over the budget of 0.5"),
        (WITHIN, CLOSE, False, "0.9870 with the calibration images: other images may have less than the 0.985 asked"),
        (WIDE, CLOSE, False, "0.9870 with the calibration images: other images may have less"),
        (WITHIN, POOR, False, "fidelity is 0.9800, under the 0.985 asked for"),
        (WIDE, POOR, False, "fidelity is 0.9800, under the 0.985 asked for"),
        (None, GOOD, True, "fidelity is 0.9900, 0.9880 with the calibration images; there are no truths to measure AP"),
        (None, POOR, False, "fidelity is 0.9800, under the 0.985 asked for; there are no truths"),
    ],
)
def test_the_verdict_is_that_of_the_interval_and_of_fidelity(
    change: dict[str, float] | None, kept: Kept, met: bool, told: str
) -> None:
    """Within the budget by its interval, by its value alone with the images that it would take, or over it."""
    found = judge(change, kept, 100, WANTED)
    assert found[0] is met
    assert told in found[1]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--metric", "mIoU"], "unknown metric 'mIoU'"),
        (["--without", "magic"], "unknown repair 'magic'"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    """A metric that the task lacks and a repair that is none: exit code 2, nothing written."""
    assert search(tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_float_targets_are_refused() -> None:
    """A search is for int8."""
    from sandglass.core import discover
    from sandglass.search.quantize import _request

    with pytest.raises(InputError, match="no int8 target"):
        _request(discover.load("tasks", "topdown-pose"), "reference:fp32", 0.5, None, 0.9, None)
