"""The search gives back as few layers as the budget asks for, and the noise that it goes by adds up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.test_backends import save_graph
from graphs import normal
from sandglass.graph.execute import GraphSession
from sandglass.quantize import make
from sandglass.quantize.plan import Plan
from sandglass.quantize.search import Choice, Cost, idle, ranking, search
from sandglass.quantize.sensitivity import alone, decibels, integer_layers, noise, only, run, without
from sandglass.quantize.simulate import simulate
from sandglass.quantize.spec import Spec

SPEC = Spec(("Conv",), asymmetric=True)
LAYERS = ["first", "depthwise", "pointwise", "three", "last"]


def costs(*powers: float) -> list[Cost]:
    """Layers a, b, c.. with these noises, each twice as fast in int8."""
    return [Cost(chr(97 + i), power, 2.0, 1.0) for i, power in enumerate(powers)]


class Fidelity:
    """1 less the noises of the layers that are left in int8, and how often that was asked."""

    def __init__(self, given: list[Cost]) -> None:
        self.costs = given
        self.asked: list[frozenset[str]] = []

    def __call__(self, reasons: Mapping[str, str]) -> float:
        self.asked.append(frozenset(reasons))
        return 1 - sum(cost.noise for cost in self.costs if cost.name not in reasons)


def test_nothing_is_given_back_within_the_budget() -> None:
    """Full int8 keeps the budget: it is the choice, after one simulation."""
    found = costs(0.01, 0.02, 0.03)
    fidelity = Fidelity(found)
    choice = search(found, fidelity, 0.93)
    assert (choice.reasons, choice.milliseconds) == ({}, 3.0)
    assert choice.fidelity == pytest.approx(0.94)
    assert fidelity.asked == [frozenset()]


def test_noisiest_layers_are_given_back_and_no_more() -> None:
    """The fewest along the ranking, each with its reason; time and fidelity are those of the choice."""
    found = costs(0.01, 0.08, 0.02, 0.04)
    choice = search(found, Fidelity(found), 0.96)
    assert set(choice.reasons) == {"b", "d"}
    assert choice.reasons["b"] == "gives 8.0e-02 of the output's power as noise for 1.000 ms"
    assert choice.fidelity == pytest.approx(0.97)
    assert choice.milliseconds == pytest.approx(2 + 2 + 1 + 1)


def test_noise_counts_for_the_time_that_it_buys() -> None:
    """Of two layers with the same noise the one that gains less goes first, and of equal ones the first by name."""
    found = [Cost("fast", 0.02, 10, 1), Cost("slow", 0.02, 2, 1), Cost("b", 0.01, 2, 1), Cost("a", 0.01, 2, 1)]
    assert [cost.name for cost in ranking(found)] == ["slow", "a", "b", "fast"]
    assert ranking(found) == ranking(found[::-1])


def test_idle_layers_go_first() -> None:
    """A layer that int8 makes no faster is in float though the budget is kept, and though its noise is least."""
    found = [*costs(0.01, 0.02), Cost("idle", 1e-9, 1.0, 1.2), Cost("nearly", 1e-9, 1.0, 1.0)]
    assert set(idle(found)) == {"idle", "nearly"}
    fidelity = Fidelity(found)
    choice = search(found, fidelity, 0.5)
    assert choice.reasons == {
        "idle": "int8 gains no time: 1.200 ms, float 1.000 ms",
        "nearly": "int8 gains no time: 1.000 ms, float 1.000 ms",
    }
    assert all({"idle", "nearly"} <= asked for asked in fidelity.asked)
    assert choice.milliseconds == pytest.approx(1 + 1 + 1 + 1)
    assert set(search(found, fidelity, 0.985).reasons) == {"idle", "nearly", "b"}


def test_end_is_returned_when_nothing_suffices() -> None:
    """A budget that no choice keeps: all layers are in float, and the fidelity says so."""
    found = costs(0.01, 0.02, 0.03)
    choice = search(found, lambda reasons: 0.5 + 0.1 * len(reasons), 0.99)
    assert set(choice.reasons) == {"a", "b", "c"}
    assert choice.fidelity == pytest.approx(0.8)
    assert choice.milliseconds == pytest.approx(6)


def test_budget_that_is_just_kept_is_kept() -> None:
    """A fidelity that is the least one suffices."""
    for count in range(5):
        assert len(search(costs(0.1, 0.2, 0.3, 0.4), lambda reasons: len(reasons) / 4, count / 4).reasons) == count


def test_nothing_to_search() -> None:
    """No layers, or idle ones alone: one simulation, and its fidelity."""
    assert search([], lambda reasons: 0.7, 0.9) == Choice({}, 0.7, 0)
    alone = [Cost("a", 0.1, 1.0, 1.0)]
    assert set(search(alone, Fidelity(alone), 0.95).reasons) == {"a"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 8)), min_size=0, max_size=20),
    st.integers(0, 1000),
)
def test_search_is_least_and_quick(layers: list[tuple[int, int]], tenths: int) -> None:
    """As a walk along the ranking, one by one, would find it, in far fewer simulations; twice the same."""
    found = [Cost(f"l{i}", power / 1e4, 1.0 + gain, 1.0) for i, (power, gain) in enumerate(layers)]
    fidelity, least = Fidelity(found), 1 - tenths / 1e3 * sum(cost.noise for cost in found)
    lines: list[str] = []
    choice = search(found, fidelity, least, lines.append)
    given_back = dict(idle(found))
    for cost in [*ranking([cost for cost in found if cost.name not in given_back]), None]:
        if cost is None or Fidelity(found)(given_back) >= least:
            break
        given_back[cost.name] = ""
    assert set(choice.reasons) == set(given_back)
    assert choice.fidelity == Fidelity(found)(choice.reasons)
    assert choice.milliseconds == pytest.approx(sum(c.float_ms if c.name in given_back else c.int8_ms for c in found))
    assert len(set(fidelity.asked)) == len(fidelity.asked) == len(lines) <= 2 + np.ceil(np.log2(len(found) + 1))
    assert search(found, Fidelity(found), least) == choice


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
    return make.make_plan(graph, images(8), "mse")


def single_noises(graph: Path, plan: Plan, batches: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The noise of each layer that is rounded alone."""
    expected = run(GraphSession(graph), batches)
    return {name: noise(expected, found) for name, found in alone(graph, plan, SPEC, batches, LAYERS)}


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
    """Powers are summed over samples, so that one without a signal does not weigh more; and decibels of it."""
    expected = [{"y": np.array([3.0, 4.0])}, {"y": np.array([4.0, 3.0])}, {"y": np.zeros(2)}]
    assert noise(expected, [{"y": values["y"] * 1.1} for values in expected]) == pytest.approx(0.01)
    assert noise(expected, [{"y": expected[0]["y"] * 1.1}, *expected[1:]]) == pytest.approx(0.005)
    assert noise(expected, [*expected[:2], {"y": np.array([0.5, 0.0])}]) == pytest.approx(0.005)
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(0) == pytest.approx(120)
