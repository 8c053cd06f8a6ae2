"""The default plan: full int8 if the task agrees with it, else with the costliest layers in float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from graphs import network, normal

from sandglass.datasets import synthetic_people
from sandglass.graph.io import save_graph
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.repairs.bias_correction import NAME as BIAS
from sandglass.search import default_plan
from sandglass.search.default_plan import Agreement, acceptable_plan, fewest, without_predictions_of_another_task
from sandglass.search.inputs import SearchInputs, prepare_inputs
from sandglass.search.run import Run
from sandglass.search.trials import full_int8_plan
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source
from sandglass.tasks import load_task

CARD = Card("a", "topdown-pose", Input((64, 48), (120.0, 115.0, 100.0), (60.0, 58.0, 57.0)), model="hourglass")
NETWORK = """g (float[1, 3, 64, 48] x) => (float[1, 17, 32, 24] y) {
    a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w1) b = Relu(a)
    c = Conv(b, w2) d = Relu(c) y = Conv(d, w3) }"""
WEIGHTS = {"w1": normal(1, 8, 3, 3, 3), "w2": normal(2, 8, 8, 1, 1), "w3": 1e-4 * normal(3, 17, 8, 1, 1)}


@pytest.fixture
def inputs(tmp_path: Path) -> SearchInputs:
    """A small network with four people."""
    pytest.importorskip("onnxruntime")
    save_graph(network(NETWORK, WEIGHTS), tmp_path / "g.onnx")
    calibration = Calibration(synthetic_people.load(limit=8, split="train"), size=4, method="mse")
    return prepare_inputs(Source(CARD, tmp_path / "g.onnx"), "onnxruntime", calibration)


@pytest.mark.parametrize(("most", "needed"), [(1, 1), (2, 1), (5, 3), (9, 9), (60, 7), (60, 60)])
def test_fewest_is_found_with_few_tries(most: int, needed: int) -> None:
    """The least number that suffices, with about twice as many tries as it has binary digits."""
    tried: list[int] = []

    def suffices(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert fewest(most, suffices) == needed
    assert most not in tried
    assert len(tried) <= 2 * most.bit_length()


@pytest.mark.parametrize("least", [-1000.0, 1000.0])
def test_layers_go_back_to_float_until_the_least_agreement(
    least: float, inputs: SearchInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None if full int8 suffices, all if nothing does; each has a reason that names the agreement.

    The network sees nobody, so that the agreement is the noise at its outputs.
    """
    monkeypatch.setattr(default_plan, "LEAST_DECIBELS", least)
    lines = list[str]()
    run = Run.new(tmp_path, lines.append)
    repaired = full_int8_plan(inputs, [BIAS], run)
    plan = acceptable_plan(inputs, repaired, run)
    in_float = [name for name, layer in plan.layers.items() if layer.keep_float]
    assert in_float == ([] if least < 0 else list(repaired.integer_layers))
    assert all("signal-to-noise ratio in dB" in plan.layers[name].reason for name in in_float)
    assert any("all 3 layers in int8" in line for line in lines)


def test_network_of_another_task_goes_by_the_noise_at_its_outputs(inputs: SearchInputs, tmp_path: Path) -> None:
    """The task is named and refuses the outputs; the plan is made without predictions."""
    other = replace(inputs, task=load_task("classification"))
    lines = list[str]()
    run = Run.new(tmp_path, lines.append)
    usable = without_predictions_of_another_task(other, lines.append)
    plan = acceptable_plan(usable, full_int8_plan(usable, [BIAS], run), run)
    assert any("noise at the outputs decides in place of predictions" in line for line in lines)
    assert plan.layers
    assert without_predictions_of_another_task(inputs, lines.append) is inputs


def test_agreement_says_what_was_measured_and_needed() -> None:
    agreement = Agreement("OKS", 0.97, 0.99)
    assert not agreement.suffices
    assert agreement.text == "OKS to float 0.97 (at least 0.99)"
    assert replace(agreement, value=0.99).suffices
