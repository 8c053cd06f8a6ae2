"""Noises of single layers, by simulation: they add up, and are shares of the outputs' power."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import normal

from sandglass.cli.conformance.networks import save_graph
from sandglass.graph.output_parts import OutputPart
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan
from sandglass.quantization.output_noise import (
    OutputNoise,
    decibels,
    integer_layers,
    layer_noises,
    noise,
    only,
    run,
    without,
)
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec

SPEC = Spec(("Conv",), asymmetric=True)
LAYERS = ["first", "depthwise", "pointwise", "three", "last"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return save_graph(tmp_path_factory.mktemp("search") / "small.onnx")


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Its inputs."""
    return [{"image": normal(seed + i, 1, 3, 32, 24)} for i in range(count)]


@pytest.fixture(scope="module")
def plan(graph: Path) -> Plan:
    """Its plan."""
    return make_plan.make_plan(graph, images(8), "mse")


def single_noises(graph: Path, plan: Plan, batches: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The noise of each layer that is rounded alone."""
    expected = run(GraphSession(graph), batches)
    alone = {name: simulate(graph, only(plan, [name]), SPEC) for name in LAYERS}
    return {name: noise(expected, run(session, batches)) for name, session in alone.items()}


def test_noises_of_single_layers_add_up(graph: Path, plan: Plan) -> None:
    """Their sum is about the noise of all layers rounded together, and none of them is all of it."""
    held_out = images(8, 100)
    single = single_noises(graph, plan, held_out)
    together = noise(run(GraphSession(graph), held_out), run(simulate(graph, plan, SPEC), held_out))
    assert list(single) == LAYERS
    assert 0.75 < sum(single.values()) / together < 1.35
    assert all(0 < power < 0.9 * together for power in single.values())


def test_noise_of_no_layer_is_none(graph: Path, plan: Plan) -> None:
    """With all layers in float the simulation is the network; a layer given back takes its noise with it."""
    batches = images(2, 100)
    expected = run(GraphSession(graph), batches)
    assert noise(expected, run(simulate(graph, only(plan, []), SPEC), batches)) < 1e-10
    single = single_noises(graph, plan, batches)
    worst = max(single, key=lambda name: single[name])
    less = noise(expected, run(simulate(graph, without(plan, {worst: "noisy"}), SPEC), batches))
    assert less < noise(expected, run(simulate(graph, plan, SPEC), batches))


def test_layers_are_left_out_by_name(graph: Path, plan: Plan) -> None:
    """`only` and `without` change those layers, with a reason, and no other."""
    assert integer_layers(graph, only(plan, ["three", "first"]), SPEC) == ["first", "three"]
    changed = without(plan, {"three": "noisy"})
    assert integer_layers(graph, changed, SPEC) == ["first", "depthwise", "pointwise", "last"]
    assert changed.layers["three"].reason == "noisy"
    assert {n: layer for n, layer in changed.layers.items() if n != "three"} == {
        n: layer for n, layer in plan.layers.items() if n != "three"
    }


def test_noise_is_a_share_of_the_power() -> None:
    """Its decibels are the mean over inputs, weak or strong, but for one without a signal, which does not count."""
    expected = [{"y": np.array([3.0, 4.0])}, {"y": np.array([400.0, 300.0])}, {"y": np.zeros(2)}]
    assert noise(expected, [{"y": values["y"] * 1.1} for values in expected]) == pytest.approx(0.01)
    assert noise(expected, [{"y": expected[0]["y"] * 2}, {"y": expected[1]["y"] * 1.01}, expected[2]]) == pytest.approx(
        0.01
    )
    assert noise(expected, expected) == pytest.approx(1e-12)
    assert noise(expected[2:], [{"y": np.array([0.5, 0.0])}]) == 0
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(0) == pytest.approx(120)


def test_parts_count_alike() -> None:
    """Boxes in pixels do not hide what happens to the scores: in dB each part counts as much as the other."""
    expected = [{"boxes": np.full(4, 300.0), "scores": np.full(2, 0.5)}]
    actual = [{"boxes": np.full(4, 303.0), "scores": np.full(2, 0.45)}]
    measure = OutputNoise((OutputPart("boxes", "boxes"), OutputPart("scores", "scores")))
    assert measure.ratios(expected, actual) == pytest.approx(np.array([[1e-4, 1e-2]]))
    assert decibels(measure.noise(expected, actual)) == pytest.approx(30)
    assert measure.changes(expected, actual) == pytest.approx([(1e-4 + 1e-2) / 2])
    silent = [{"boxes": np.zeros(4), "scores": np.full(2, 0.5)}]
    assert measure.changes(silent, [{**silent[0], "scores": np.full(2, 0.45)}]) == pytest.approx([1e-2])


def test_one_input_counts_for_no_more_than_another() -> None:
    """A layer that is half of the noise on one input, however loud, and nothing on the others adds a share of that.

    The first variants of all layers add up to the noise of the network; further variants have the same measure.
    """
    changed = np.array([[5.0, 0, 0, 0], [5.0, 1e-4, 1e-4, 1e-4], [10.0, 2e-4, 0, 2e-4]])
    first, second, other = layer_noises(changed, [0, 1])
    assert first + second == pytest.approx((10 * 1e-12) ** 0.25)
    assert first / (first + second) == pytest.approx(0.5 / 4)
    assert other / (first + second) == pytest.approx((1 + 2 + 2) / 4)


def test_inputs_on_which_nothing_changes_do_not_count() -> None:
    """If no layer makes a difference on any input, no layer has noise."""
    changed = np.array([[1e-2, 0.0], [3e-2, 0.0]])
    assert layer_noises(changed, [0, 1]) == pytest.approx([1e-2, 3e-2])
    assert layer_noises(np.zeros((2, 3)), [0, 1]).tolist() == [0, 0]
