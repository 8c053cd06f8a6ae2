"""The time model: two numbers that make times of layers add up to those of whole runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandglass.search.costs import Boundary, CostModel, LayerCost, LayerVariant
from sandglass.search.min_cut import cheapest
from sandglass.search.timing import TimeModel, WholeRun, cost_model, factor_bounds, fit_time_model

TIMES = {"p": (1.0, 10), "d": (1.5, 60), "e": (2.1, 20), "y": (2.2, 10)}  # in int8, and multiply-accumulates
LAYERS = [LayerCost(name, 2.0, (LayerVariant(8, time, 1e-4),), macs) for name, (time, macs) in TIMES.items()]
BOUNDS = factor_bounds(2)


def fit(profiled: list[float], elements: list[int], saved: list[float], least: float = 0.0) -> tuple[float, float]:
    """Factor and milliseconds for an element."""
    runs = [WholeRun(*run) for run in zip(profiled, elements, saved, strict=True)]
    model = fit_time_model(runs, BOUNDS, least)
    return model.factor, model.ms_per_element


def misses(factor: float, each: float, profiled: list[float], elements: list[int], saved: list[float]) -> float:
    """Sum of squares by which the two numbers miss what runs saved."""
    return sum((factor * p - each * e - s) ** 2 for p, e, s in zip(profiled, elements, saved, strict=True))


@pytest.mark.parametrize(("factor", "each"), [(1.0, 0.0), (0.8, 2e-6), (1.9, 1e-6), (0.5, 5e-7)])
def test_numbers_are_found(factor: float, each: float) -> None:
    """Two runs that follow from them tell both: all layers with few conversions, and every other one with many."""
    profiled, elements = [10.0, 4.0], [100_000, 3_000_000]
    saved = [factor * ms - each * count for ms, count in zip(profiled, elements, strict=True)]
    assert fit(profiled, elements, saved) == pytest.approx((factor, each), rel=1e-3, abs=1e-12)


def test_numbers_stay_within_bounds() -> None:
    """A factor within its bounds and a time of 0 or more for an element, whatever was timed."""
    low, high = BOUNDS
    elements = [100_000, 3_000_000]
    assert fit([10.0, 4.0], elements, [100.0, 40.0])[0] == high
    assert fit([10.0, 4.0], elements, [-3.0, -9.0])[0] == low
    assert fit([10.0, 4.0], elements, [8.0, 5.0])[1] == 0
    assert fit([10.0, 4.0], [0, 0], [8.0, 3.2]) == pytest.approx((0.8, 0.0))
    assert fit([0.0, 0.0], elements, [-1.0, -30.0])[1] == pytest.approx(1e-5)
    assert fit([0.0, 0.0], [0, 0], [1.0, 2.0])[1] == 0


def test_factor_may_be_smaller_with_more_threads() -> None:
    """All threads may share the work that was profiled on one."""
    assert factor_bounds(1) == (0.5, 2.0)
    assert factor_bounds(4) == (0.125, 2.0)


def test_conversions_may_have_been_timed_too_long() -> None:
    """A time below 0 for an element is found where it is allowed."""
    profiled, elements = [10.0, 4.0, 5.0], [100_000, 3_000_000, 2_000_000]
    saved = [0.7 * ms + 3e-7 * count for ms, count in zip(profiled, elements, strict=True)]
    assert fit(profiled, elements, saved, -np.inf) == pytest.approx((0.7, -3e-7), rel=1e-2)
    assert fit(profiled, elements, saved)[1] == 0


SIZES = st.lists(st.floats(-10, 10), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=2), st.lists(st.integers(0, 9), min_size=2, max_size=2), SIZES)
def test_no_other_numbers_are_much_nearer(profiled: list[float], elements: list[int], saved: list[float]) -> None:
    """No other time for an element of a fine grid misses by much less."""
    factor, each = fit(profiled, elements, saved)
    reached = misses(factor, each, profiled, elements, saved)
    assert BOUNDS[0] <= factor <= BOUNDS[1]
    assert each >= 0
    scale = 1e-9 + sum(value * value for value in saved)
    rivals = [misses(factor, other, profiled, elements, saved) for other in np.linspace(0, 2 * each + 1, 200)]
    assert reached <= min(rivals) + 1e-6 * scale


INTO_D, BACK = Boundary(frozenset(), frozenset("d"), False), Boundary(frozenset("d"), frozenset("y"), True)


def test_times_are_scaled_and_conversions_priced() -> None:
    """All times by the factor, each boundary by its elements."""
    model = cost_model(TimeModel(0.5, 0.01), LAYERS, {INTO_D: 7, BACK: 30}, 9.0, timed_converting=False)
    assert [(layer.float_ms, layer.variants[0].milliseconds) for layer in model.layers] == [
        (1.0, time / 2) for time, _ in TIMES.values()
    ]
    assert [entry.milliseconds for entry in model.conversions] == pytest.approx([0.07, 0.3])
    assert model.float_ms == 9.0


@pytest.mark.parametrize(("each", "expected"), [(0.01, 0.5 * 1.5 + 0.07), (-0.05, 0.5 * 1.5 - 0.35), (-1.0, 0.0)])
def test_conversions_correct_layers_that_were_timed_with_them(each: float, expected: float) -> None:
    """Where layers are timed converting, the conversion is part of the int8 time, which does not fall below 0."""
    boundaries = {Boundary(frozenset(), frozenset(name), False): 7 for name in TIMES}
    model = cost_model(TimeModel(0.5, each), LAYERS, boundaries, 9.0, timed_converting=True)
    assert model.conversions == ()
    assert model.layers[1].variants[0].milliseconds == pytest.approx(expected)
    assert model.layers[1].float_ms == 1.0


def test_a_bonus_brings_more_work_into_int8() -> None:
    """Layers that lose time are chosen as well, those first that lose the least for their work."""
    model = CostModel(tuple(LAYERS), (), 8.0)
    chosen = [set(cheapest(model.with_bonus(bonus), 0.0)) for bonus in (0.0, 0.1, 0.5)]
    assert chosen == [{"p", "d"}, {"p", "d", "e"}, {"p", "d", "e", "y"}]
    assert model.with_bonus(0.5).float_ms == 8.0
