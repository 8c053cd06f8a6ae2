"""The search under a budget: on the embedded model by the command line, and on a small network with fixed times."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from graphs import network, normal

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.cli.main import main
from sandglass.core.errors import BudgetError, CrashError, InputError
from sandglass.datasets import synthetic_people
from sandglass.graph.io import save_graph
from sandglass.measure import benchmarking
from sandglass.measure.benchmarking import Speed
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.repairs import repair_names
from sandglass.search.attempts import Attempt, first_within_budget, is_full_faster
from sandglass.search.budget import Verdict
from sandglass.search.fidelity_check import FidelityResult
from sandglass.search.quantize import Quantization, quantize, sensitivity

pytestmark = pytest.mark.slow

SYNTHETIC = ["--calibration-dataset", "synthetic-people", "--evaluation-dataset", "synthetic-people"]
NETWORK = """g (float[1, 3, 32, 24] image) => (float[1, 17, 16, 12] heatmaps) {
    a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w1) b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, w2) d = Relu(c) heatmaps = Conv(d, w3) }"""
WEIGHTS = {"w1": normal(1, 8, 3, 3, 3), "w2": normal(2, 8, 8, 3, 3), "w3": normal(3, 17, 8, 1, 1)}
CARD = """name = "small"
    task = "topdown-pose"
    graph = "small.onnx"
    input = {size = [32, 24], mean = [123.675, 116.28, 103.53], std = [58.395, 57.12, 57.375]}"""
LAYERS = ("a", "c", "heatmaps")
NO_MINIMUM: dict[str, Any] = {"max_drop": 100.0, "min_fidelity": 0.0}


@dataclass(frozen=True)
class FixedTimes:
    """In place of a clock: every layer takes 1 ms in float, and `int8_ms` in int8, by its name.

    A whole run takes the sum, or one of `medians` in turn where there are some.
    """

    int8_ms: Mapping[str, float]
    medians: tuple[float, ...] = ()
    seconds: float = 0.0

    def layers(self, artifact: Artifact) -> dict[str, float]:
        """By what the artifact's notes say of each layer."""
        integer = layers_in_int8(artifact)
        return {name: ms if name in integer else 1.0 for name, ms in self.int8_ms.items()}

    def paired_layers(self, artifact: Artifact, base: Artifact) -> tuple[dict[str, float], dict[str, float]]:
        """Of the float artifact, and of the other one."""
        return self.layers(base), self.layers(artifact)

    def whole_runs(self, artifacts: Sequence[Artifact], say: object) -> list[Speed]:
        """One run of each artifact."""
        sums = [sum(self.layers(artifact).values()) for artifact in artifacts]
        medians = self.medians if len(self.medians) == len(artifacts) else sums
        return [
            benchmarking.speed(artifact, [median / 1e3], 10.0, 1, 1)
            for artifact, median in zip(artifacts, medians, strict=True)
        ]


FASTER = FixedTimes(dict.fromkeys(LAYERS, 0.5))
SLOWER = FixedTimes(dict.fromkeys(LAYERS, 1.1))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The card of a network of three layers."""
    return save_card(tmp_path, NETWORK, WEIGHTS)


def save_card(folder: Path, text: str, weights: Mapping[str, Any]) -> Path:
    """A card next to its graph."""
    save_graph(network(text, weights), folder / "small.onnx")
    (folder / "small.toml").write_text(CARD)
    return folder / "small.toml"


def search(source: Path, out: Path, **options: Any) -> Quantization:
    """A search on a few people."""
    pytest.importorskip("openvino")
    calibration = Calibration(synthetic_people.load(limit=4, split="train"), size=4)
    evaluation = synthetic_people.load(limit=5)
    return quantize(source, "openvino:int8", out, calibration=calibration, evaluation=evaluation, **options)


def layers_in_int8(artifact: Artifact) -> list[str]:
    """By what the backend noted; none in a float artifact."""
    decisions = artifact.files()[1].layers or {}
    return [name for name, decision in decisions.items() if decision.arithmetic == "int8"]


def planned_in_int8(out: Path) -> list[str]:
    """By the published plan."""
    layers = json.loads((out / "openvino-int8.plan.json").read_text())["layers"]
    return [name for name, layer in layers.items() if not layer["keep_float"]]


def test_a_search_ends_in_an_artifact_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The artifact, the float one and the plan are there; every layer has a decision; the result is JSON too."""
    pytest.importorskip("openvino")
    out, result_file = tmp_path / "out", tmp_path / "r.json"
    options = ["--max-drop", "20", "--min-fidelity", "0.9", "--gain", "work"]  # times would depend on what else runs
    options += ["--calibration-size", "4", "--limit", "5", "--out", str(out), "--json", str(result_file), *SYNTHETIC]
    assert main(["quantize", "hourglass-tiny-synthetic", "--to", "openvino:int8", *options]) == 0
    assert "points" in capsys.readouterr().out
    result = json.loads(result_file.read_text())
    assert result["met"] is True
    assert 0.5 < result["int8_share_of_macs"] <= 1
    assert {layer["runs_in"] for layer in result["layers"]} <= {"int8", "float"}
    assert all(layer["because"] for layer in result["layers"] if layer["runs_in"] == "float")
    assert result["fidelity"][1]["OKS"]["value"] > 0.9
    plan = json.loads((out / "openvino-int8.plan.json").read_text())
    assert plan["repairs"] == list(repair_names())
    chosen = [layer["name"] for layer in result["layers"] if layer["runs_in"] == "int8"]
    assert layers_in_int8(load_artifact(out / "openvino-int8")) == chosen
    assert load_artifact(out / "openvino-fp32").precision == "fp32"


def test_all_layers_run_in_int8_where_that_is_faster(tmp_path: Path, small: Path) -> None:
    lines = list[str]()
    result = search(small, tmp_path / "out", timer=FASTER, say=lines.append, **NO_MINIMUM)
    assert (result.met, result.integer_share) == (True, 1.0)
    assert planned_in_int8(tmp_path / "out") == list(LAYERS) == list(result.choice.bits)
    assert result.expected_ms == pytest.approx(1.5, rel=1e-3)
    assert [speed.median for speed in result.speeds] == [3.0, 1.5, 1.5]
    assert any(" left)" in line for line in lines if line.startswith("sensitivity: "))


def test_a_missed_budget_publishes_nothing(tmp_path: Path, small: Path) -> None:
    """No int8 artifact and no plan; another search in that folder is refused by name; best effort publishes."""
    out = tmp_path / "out"
    options: dict[str, Any] = {"timer": SLOWER, "max_drop": 100.0, "min_fidelity": 0.999999, "min_int8_share": 1.0}
    with pytest.raises(BudgetError, match=r"fidelity is .*, below the minimum of 0\.999999"):
        search(small, out, **options)
    assert not (out / "openvino-int8").exists()
    assert not (out / "openvino-int8.plan.json").exists()
    with pytest.raises(InputError, match="other values of max_drop"):
        search(small, out, **options | {"max_drop": 3.0})
    result = search(small, out, best_effort=True, **options)
    assert (result.met, planned_in_int8(out)) == (False, list(LAYERS))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.5, 1.0)])
def test_minimum_share_of_int8_is_reached(tmp_path: Path, small: Path, share: float, expected: float) -> None:
    """Also where int8 makes every layer slower; all layers are alike, and go together."""
    result = search(small, tmp_path / "out", timer=SLOWER, min_int8_share=share, **NO_MINIMUM)
    assert result.integer_share == expected


def test_share_of_int8_that_no_choice_reaches(tmp_path: Path) -> None:
    """A layer that cannot run in int8 counts too: its input is always 0."""
    text = """g (float[1, 3, 32, 24] image) => (float[1, 17, 32, 24] heatmaps) {
        a = Conv<pads = [1, 1, 1, 1]>(image, w1) b = Relu(a) c = Neg(b) zero = Relu(c)
        u = Conv(zero, w3) v = Conv(b, w4) heatmaps = Add(u, v) }"""
    card = save_card(tmp_path, text, WEIGHTS | {"w4": normal(4, 17, 8, 1, 1)})
    times = FixedTimes(dict.fromkeys(("a", "u", "v"), 0.5))
    with pytest.raises(BudgetError, match="no choice runs 100% of the multiply-accumulates in int8"):
        search(card, tmp_path / "out", timer=times, min_int8_share=1.0, **NO_MINIMUM)


def test_full_int8_is_published_where_it_is_faster_after_all(tmp_path: Path, small: Path) -> None:
    """By its layers' times one layer in int8 is fastest; by the clock all three are."""
    lines = list[str]()
    times = FixedTimes({"a": 0.5, "c": 1.5, "heatmaps": 1.5}, medians=(2.0, 1.0, 3.0))
    result = search(small, tmp_path / "out", timer=times, say=lines.append, **NO_MINIMUM)
    assert planned_in_int8(tmp_path / "out") == list(LAYERS)
    assert len(layers_in_int8(load_artifact(tmp_path / "out/openvino-int8"))) == 3
    assert [speed.median for speed in result.speeds] == [2.0, 1.0, 1.0]
    assert any("full int8 is faster than the choice" in line for line in lines)


def attempt(fidelity: float, met: bool) -> Attempt:
    """A choice that was built."""
    nothing: Any = None
    return Attempt(nothing, nothing, nothing, {}, FidelityResult(fidelity, fidelity, fidelity), Verdict(met, "text"))


def test_no_attempt_is_built_after_the_first_within_the_budget() -> None:
    """A runtime that crashes and a choice that loses too much are passed by."""
    attempts = [CrashError("it crashed"), attempt(0.99, False), attempt(0.9, True), attempt(1.0, True)]
    read = 0

    def reading() -> Iterator[Any]:
        nonlocal read
        for entry in attempts:
            read += 1
            yield entry

    assert first_within_budget(reading()) is attempts[2]
    assert read == 3


def test_best_attempt_is_the_one_with_the_highest_fidelity() -> None:
    attempts = [attempt(0.5, False), CrashError("it crashed"), attempt(0.7, False), attempt(0.7, False)]
    assert first_within_budget(attempts) is attempts[2]
    assert first_within_budget([]) is None


def test_crashes_alone_are_an_error() -> None:
    with pytest.raises(CrashError, match="the second"):
        first_within_budget([CrashError("the first"), CrashError("the second")])


@pytest.mark.parametrize(("full", "expected"), [(0.96, True), (0.98, False), (1.2, False)])
def test_full_int8_has_to_be_notably_faster(full: float, expected: bool) -> None:
    """Three hundredths are the noise of timing."""
    artifact: Any = None
    speed = Speed(artifact, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1, 1, 1)
    assert is_full_faster([speed, replace(speed, median=full), speed]) is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "mIoU"}, "unknown metric 'mIoU'"),
        ({"without": ["magic"]}, "unknown repair 'magic'"),
        ({"gain": "fame"}, "unknown gain 'fame'"),
    ],
)
def test_bad_arguments_are_refused_at_once(tmp_path: Path, small: Path, options: dict[str, Any], message: str) -> None:
    """Nothing is written."""
    with pytest.raises(InputError, match=message):
        search(small, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_float_targets_are_refused(small: Path) -> None:
    """A search is for int8."""
    with pytest.raises(InputError, match="is not an int8 target"):
        sensitivity(small, "reference:fp32", calibration=Calibration(synthetic_people.load(limit=1), size=1))


def test_sensitivity_has_noise_and_time_of_each_layer(small: Path) -> None:
    pytest.importorskip("openvino")
    calibration = Calibration(synthetic_people.load(limit=2, split="train"), size=2)
    costs = sensitivity(small, "openvino:int8", calibration=calibration, timer=FASTER)
    assert [cost.name for cost in costs] == list(LAYERS)
    assert all((cost.float_ms, cost.variants[0].milliseconds) == (1.0, 0.5) for cost in costs)
    assert all(0 < cost.variants[0].noise < 1 and cost.macs > 0 for cost in costs)
