"""What a search prepares and builds: its inputs, plans with other bits, and artifacts that are far from float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import network, normal

from sandglass.core.errors import InputError, ParityError
from sandglass.datasets import synthetic_people
from sandglass.graph.io import save_graph
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.repairs.bias_correction import NAME as BIAS
from sandglass.search.inputs import SearchInputs, prepare_inputs
from sandglass.search.run import Run
from sandglass.search.trials import (
    RepairedPlan,
    build_exact,
    build_trial,
    full_int8_plan,
    plan_with,
    repairs_without,
    with_variants,
)
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

CARD = Card("a", "topdown-pose", Input((64, 48), (120.0, 115.0, 100.0), (60.0, 58.0, 57.0)), model="hourglass")
NETWORK = """g (float[1, 3, 64, 48] x) => (float[1, 17, 32, 24] y) {
    a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w1) b = Relu(a) y = Conv(b, w2) }"""


def silent(line: str) -> None:
    """Says nothing."""


def prepared(folder: Path, backend: str) -> SearchInputs:
    """A small network with four people, each seen in three ways."""
    weights = {"w1": normal(1, 8, 3, 3, 3), "w2": normal(2, 17, 8, 1, 1)}
    save_graph(network(NETWORK, weights), folder / "g.onnx")
    calibration = Calibration(synthetic_people.load(limit=8, split="train"), size=4, method="mse")
    return prepare_inputs(Source(CARD, folder / "g.onnx"), backend, calibration)


@pytest.fixture
def inputs(tmp_path: Path) -> SearchInputs:
    """For ONNX Runtime."""
    return prepared(tmp_path, "onnxruntime")


@pytest.fixture
def repaired(tmp_path: Path, inputs: SearchInputs) -> RepairedPlan:
    """Its plan."""
    return with_variants(inputs, full_int8_plan(inputs, [BIAS], Run.new(tmp_path, silent)))


def test_ranges_are_read_on_people_as_they_are_and_wider_ones(inputs: SearchInputs) -> None:
    """Fidelity is checked on small people as well, who come last."""
    assert (len(inputs.batches), len(inputs.looks)) == (8, 12)
    for batch, look in zip(inputs.batches, inputs.looks[:8], strict=True):
        np.testing.assert_array_equal(batch["x"], look.inputs["x"])
    assert [max(look.view["box"][2:]) < 34 for look in inputs.looks] == [False] * 8 + [True] * 4


def test_share_is_that_of_multiply_accumulates(inputs: SearchInputs) -> None:
    first, second = 32 * 24 * 8 * 27, 32 * 24 * 17 * 8
    assert list(inputs.macs.values()) == [first, second]
    assert inputs.share(list(inputs.macs)[:1]) == pytest.approx(first / (first + second))
    assert inputs.share([]) == 0


def test_repairs_are_left_out_by_name() -> None:
    """By its name or as the command line writes it."""
    assert repairs_without([]) == list(repair_names())
    assert repairs_without([BIAS]) == repairs_without([BIAS.replace(" ", "-")])
    assert set(repair_names()) - set(repairs_without([BIAS])) == {BIAS}
    with pytest.raises(InputError, match="unknown repair 'magic'"):
        repairs_without(["magic"])


def test_plans_differ_in_the_named_layers_only(inputs: SearchInputs, repaired: RepairedPlan) -> None:
    first, second = repaired.integer_layers
    plan = plan_with(inputs, repaired, {first: 7}, {second: "noisy"})
    assert plan.layers[second].keep_float
    assert plan.layers[second].reason == "noisy"
    assert not plan.layers[first].keep_float
    assert plan_with(inputs, repaired, {}, {}) == repaired.plan


def test_other_bits_are_rounded_again(tmp_path: Path) -> None:
    """A layer that a target offers with fewer bits has weights with fewer levels, and the plan says so."""
    inputs = prepared(tmp_path, "ncnn")
    repaired = with_variants(inputs, full_int8_plan(inputs, [BIAS], Run.new(tmp_path, silent)))
    narrow = {name: min(inputs.spec.bits(inputs.layers[name])) for name in repaired.integer_layers}
    assert set(repaired.roundings) == {
        (name, bits) for name in narrow for bits in inputs.spec.bits(inputs.layers[name])[1:]
    }
    plan = plan_with(inputs, repaired, narrow, {})
    for name, bits in narrow.items():
        assert plan.rounded[name].levels < 2 ** (bits - 1)


def test_trials_may_be_far_from_float(tmp_path: Path, inputs: SearchInputs, repaired: RepairedPlan) -> None:
    """A search measures trials by their predictions; an artifact of the same plan alone is refused."""
    pytest.importorskip("onnxruntime")
    tensors = {name: replace(seen, threshold=seen.threshold / 1000) for name, seen in repaired.plan.tensors.items()}
    clipped = replace(repaired.plan, tensors=tensors)
    assert build_trial(inputs, clipped, tmp_path / "trial", silent).precision == "int8"
    with pytest.raises(ParityError):
        build_exact(inputs, clipped, tmp_path / "exact", silent)
