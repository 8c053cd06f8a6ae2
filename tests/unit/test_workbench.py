"""What a search measures: times that add up to whole runs, noises of single layers, and plans with other bits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import network, normal
from sandglass.core.progress import TimeLeft
from sandglass.datasets import synthetic_people
from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization import output_noise, repaired_plan, simulate
from sandglass.quantization.calibration import Calibration
from sandglass.search import workbench
from sandglass.search.timing import FACTORS, two_numbers
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source


@pytest.mark.parametrize(
    ("noises", "best"), [((3, 2, 1), 2), ((3, 2, 1.7), 1), ((3, 4, 2), 2), ((1, 2, 0.9), 0), ((3, 2), 1), ((3, 3), 0)]
)
def test_more_equalization_has_to_bring_something(
    noises: tuple[float, ...], best: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The plan of the least noise is taken, with Clips moved only where that leaves a fifth less."""
    save_graph(network("g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Relu(x) }", {}), tmp_path / "g.onnx")
    told, left = [], list(noises)
    choices = [[repaired_plan.BIAS], [repaired_plan.EQUALIZE], [repaired_plan.EQUALIZE, repaired_plan.CLIPS]][
        : len(noises)
    ]

    def repaired(*given: Any) -> tuple[str, str]:
        told.append((given[5], given[-1]))
        return f"plan {len(told) - 1}", f"material {len(told) - 1}"

    monkeypatch.setattr(repaired_plan, "choices", lambda *given: choices)
    monkeypatch.setattr(repaired_plan, "repaired_plan", repaired)
    monkeypatch.setattr(output_noise, "noise", lambda *given: left.pop(0))
    monkeypatch.setattr(simulate, "simulate", lambda graph, *given: GraphSession(graph))
    monkeypatch.setattr(workbench, "drawn", lambda *given: {})
    bench = workbench.Workbench.__new__(workbench.Workbench)
    bench.source, bench.spec, bench.say = SimpleNamespace(graph=tmp_path / "g.onnx"), None, lambda line: None
    bench.left = TimeLeft()
    bench.batches = [{"x": np.ones((1, 3, 4, 4), np.float32)}]
    assert bench._best_plan(SimpleNamespace(method="kl"), repaired_plan.REPAIRS) == (f"plan {best}", f"material {best}")
    assert told == [(chosen, None if i == 0 else "plan 0") for i, chosen in enumerate(choices)]


def test_layers_are_tried_on_all_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ranges are read on people as they are and wider ones; noise also on small ones, a third of the inputs each."""
    text = "g (float[1, 3, 64, 48] x) => (float[1, 17, 64, 48] y) { y = Conv(x, w) }"
    save_graph(network(text, {"w": normal(1, 17, 3, 1, 1)}), tmp_path / "g.onnx")
    monkeypatch.setattr(workbench.Workbench, "_best_plan", lambda *given: ("plan", "material"))
    monkeypatch.setattr(workbench, "SENSITIVITY_SAMPLES", 6)
    card = Card("a", "topdown-pose", Input((64, 48), (120.0, 115.0, 100.0), (60.0, 58.0, 57.0)), model="hourglass")
    source = Source(card, tmp_path / "g.onnx")
    calibration = Calibration(synthetic_people.load(limit=8, split="train"), size=4)
    bench = workbench.Workbench(source, "onnxruntime", calibration, repaired_plan.REPAIRS, lambda line: None)
    assert (len(bench.batches), len(bench.looks)) == (8, 12)
    for batch, look in zip(bench.probes, (bench.looks[i] for i in range(0, 12, 2)), strict=True):
        np.testing.assert_array_equal(batch["x"], look[0]["x"])
    assert [max(meta["box"][2:]) < 34 for _, meta in bench.probed] == [False] * 4 + [True] * 2
    assert len(bench.expected) == 6


def misses(factor: float, price: float, gains: list[float], counts: list[float], seen: list[float]) -> float:
    """Sum of squares by which the two numbers miss what was seen."""
    return float(sum((factor * g - price * c - s) ** 2 for g, c, s in zip(gains, counts, seen, strict=True)))


@pytest.mark.parametrize(("factor", "price"), [(1.0, 0.0), (0.8, 2e-6), (1.9, 1e-6), (0.5, 5e-7)])
def test_factor_and_price_are_found(factor: float, price: float) -> None:
    """Two runs that follow from them tell both: all layers with few conversions, and every other one with many."""
    gains, counts = [10.0, 4.0], [1e5, 3e6]
    seen = [factor * gain - price * count for gain, count in zip(gains, counts, strict=True)]
    assert two_numbers(gains, counts, seen) == pytest.approx((factor, price), rel=1e-3, abs=1e-12)


def test_numbers_stay_within_reason() -> None:
    """A factor within its bounds and a price of 0 or more, whatever was seen; without conversions no price."""
    low, high = FACTORS
    assert two_numbers([10.0, 4.0], [1e5, 3e6], [100.0, 40.0])[0] == high
    assert two_numbers([10.0, 4.0], [1e5, 3e6], [-3.0, -9.0])[0] == low
    assert two_numbers([10.0, 4.0], [1e5, 3e6], [8.0, 5.0])[1] == 0
    assert two_numbers([10.0, 4.0], [0.0, 0.0], [8.0, 3.2]) == pytest.approx((0.8, 0.0))
    assert two_numbers([0.0, 0.0], [1e5, 3e6], [-1.0, -30.0])[1] == pytest.approx(1e-5)
    assert two_numbers([0.0, 0.0], [0.0, 0.0], [1.0, 2.0])[1] == 0


def test_a_price_may_be_what_was_timed_too_much() -> None:
    """Below 0 where that is allowed, and then it is found as well as one above."""
    gains, counts = [10.0, 4.0, 5.0], [1e5, 3e6, 2e6]
    seen = [0.7 * gain + 3e-7 * count for gain, count in zip(gains, counts, strict=True)]
    assert two_numbers(gains, counts, seen, -np.inf) == pytest.approx((0.7, -3e-7), rel=1e-2)
    assert two_numbers(gains, counts, seen)[1] == 0


SIZES = st.lists(st.floats(-10, 10), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=2), st.lists(st.integers(0, 9), min_size=2, max_size=2), SIZES)
def test_no_other_numbers_are_much_nearer(gains: list[float], counts: list[int], seen: list[float]) -> None:
    """Neither number alone could be better, and no pair of a fine grid misses by much less."""
    factor, price = two_numbers(gains, counts, seen)
    reached = misses(factor, price, gains, counts, seen)
    assert FACTORS[0] <= factor <= FACTORS[1]
    assert price >= 0
    scale = 1e-9 + sum(value * value for value in seen)
    rivals = [misses(factor, other, gains, counts, seen) for other in np.linspace(0, 2 * price + 1, 200)]
    assert reached <= min(rivals) + 1e-6 * scale
