"""The time model: times of layers that add up to the times of whole runs.

A profiler measures each layer, but not the conversions between int8 and float, and its times are too long or too short.
Two numbers correct this: a factor for the times of all layers, and a time for each converted element.

    milliseconds saved by a run ~ factor * (milliseconds saved by its layers) - ms_per_element * (elements converted)

They are fitted to whole runs of a few artifacts with different layers in int8, by alternating least squares. Example:
full int8 saves 4 ms by the profiler and 6 ms by the clock, and converts nothing: the factor is 1.5. With every other
layer in int8 the profiler says 2 ms, but the run saves only 1 ms and converts a million elements: they take
1.5 * 2 - 1 = 2 ms.

    >>> runs = [WholeRun(4.0, 0, 6.0), WholeRun(2.0, 1_000_000, 1.0)]
    >>> model = fit_time_model(runs, bounds=(0.5, 2.0))
    >>> round(model.factor, 2), round(1e6 * model.ms_per_element, 2)
    (1.5, 2.0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sandglass.search.costs import Boundary, Conversion, CostModel, LayerCost

# Rounds of alternating least squares. Each multiplies the remaining error by the squared cosine of the angle between
# profiled times and elements of the runs, which is small because one run converts much and the others little.
ROUNDS = 20
# Least sum of squares by which is divided: if no layer saves time, or no element is converted, any number fits.
SMALLEST_POWER = 1e-12
# Bounds of the factor for a run on one thread: the profiled time is between half and twice the time of a run. They
# limit the effect of a disturbed measurement; without a disturbance they are not reached.
SMALLEST_FACTOR, LARGEST_FACTOR = 0.5, 2.0


@dataclass(frozen=True)
class WholeRun:
    """A timed artifact: the milliseconds that it saves compared with float.

    `profiled_ms` is the sum over its layers by the profiler, and `saved_ms` the difference of whole runs by the clock.
    `elements` is the number of elements in the tensors that it converts.
    """

    profiled_ms: float
    elements: int
    saved_ms: float


@dataclass(frozen=True)
class TimeModel:
    """A factor for the profiled times of layers, and the milliseconds for each converted element."""

    factor: float
    ms_per_element: float


def factor_bounds(threads: int) -> tuple[float, float]:
    """Bounds of the factor from profiled times on one thread to runs on `threads`, which may share the work or not."""
    return SMALLEST_FACTOR / threads, LARGEST_FACTOR


def fit_time_model(runs: Sequence[WholeRun], bounds: tuple[float, float], min_ms_per_element: float = 0.0) -> TimeModel:
    """The time model whose predictions are nearest to the times that `runs` saved, by least squares.

    The factor is within `bounds`, and the time for an element is at least `min_ms_per_element`.
    """
    profiled = np.array([run.profiled_ms for run in runs], np.float64)  # (runs,), as the two below
    elements = np.array([run.elements for run in runs], np.float64)
    saved = np.array([run.saved_ms for run in runs], np.float64)
    ms_per_element = 0.0
    # saved ~ factor * profiled - ms_per_element * elements: with one number fixed, the best other one is a projection.
    for _ in range(ROUNDS):
        factor = float(np.dot(profiled, saved + ms_per_element * elements)) / _power(profiled)
        factor = min(max(factor, bounds[0]), bounds[1])
        too_much = factor * profiled - saved  # (runs,) ms that conversions have to explain
        ms_per_element = max(min_ms_per_element, float(np.dot(elements, too_much)) / _power(elements))
    return TimeModel(factor, ms_per_element)


def _power(values: np.ndarray) -> float:
    return max(float(np.dot(values, values)), SMALLEST_POWER)


def cost_model(
    time_model: TimeModel,
    layers: Sequence[LayerCost],
    boundaries: Mapping[Boundary, int],
    float_ms: float,
    timed_converting: bool,
) -> CostModel:
    """The cost model with times of whole runs, from profiled `layers`, and `boundaries` with elements.

    If the profiled time of a layer includes the conversion of its input (`timed_converting`), the time of the
    conversion is added to the int8 time of the layer, as a correction that may be negative.
    """
    conversions = [
        Conversion(boundary, time_model.ms_per_element * elements) for boundary, elements in boundaries.items()
    ]
    if not timed_converting:
        scaled_layers = tuple(scaled(layer, time_model.factor) for layer in layers)
        return CostModel(scaled_layers, tuple(conversions), float_ms)
    corrections = {name: entry.milliseconds for entry in conversions for name in entry.boundary.readers}
    return CostModel(tuple(scaled(layer, time_model.factor, corrections[layer.name]) for layer in layers), (), float_ms)


def scaled(layer: LayerCost, factor: float, more_in_int8: float = 0.0) -> LayerCost:
    """A layer's times multiplied by `factor`, and its int8 times plus `more_in_int8` milliseconds, none below 0."""
    variants = tuple(
        replace(variant, milliseconds=max(0.0, factor * variant.milliseconds + more_in_int8))
        for variant in layer.variants
    )
    return replace(layer, float_ms=factor * layer.float_ms, variants=variants)
