"""The time model: times of layers that add up to what whole runs take.

A profiler times each layer, but no profiler tells conversions apart, and its own times are too long or too short. Two
numbers correct both: a factor for the times of all layers, and a time for each element that is converted.

    milliseconds saved by a run ~ factor * (milliseconds saved by its layers) - ms_per_element * (elements converted)

They are fitted to whole runs of a few artifacts, each with other layers in int8, by alternating least squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sandglass.search.costs import Boundary, Conversion, CostModel, LayerCost

# Rounds of alternating least squares. Each multiplies the remaining error by the squared cosine of the angle between
# profiled times and elements of the runs, which is small because one run converts much and the others little.
ROUNDS = 20
# The least sum of squares to divide by: where no layer gains time, or no element is converted, any number fits.
SMALLEST_POWER = 1e-12
# Bounds of the factor, for work that one thread does: a profiler sees between half and twice the time that a run takes.
# They keep a disturbed measurement from turning the times of layers into nonsense, and are not met otherwise.
SMALLEST_FACTOR, LARGEST_FACTOR = 0.5, 2.0


@dataclass(frozen=True)
class WholeRun:
    """A timed artifact: milliseconds that it saves over float, by the profiled layers and by the clock.

    `elements` are those of the tensors that it converts.
    """

    profiled_ms: float
    elements: int
    saved_ms: float


@dataclass(frozen=True)
class TimeModel:
    """A factor for profiled times of layers, and milliseconds for each element converted."""

    factor: float
    ms_per_element: float


def factor_bounds(threads: int) -> tuple[float, float]:
    """Bounds of the factor of times on one thread, for runs on `threads`, which may share the work or not."""
    return SMALLEST_FACTOR / threads, LARGEST_FACTOR


def fit_time_model(runs: Sequence[WholeRun], bounds: tuple[float, float], min_ms_per_element: float = 0.0) -> TimeModel:
    """The time model whose predictions are nearest to what `runs` saved, in the sense of least squares.

    The factor lies within `bounds`, and the time for an element is `min_ms_per_element` or more.
    """
    profiled = np.array([run.profiled_ms for run in runs], np.float64)  # (runs,), as the two below
    elements = np.array([run.elements for run in runs], np.float64)
    saved = np.array([run.saved_ms for run in runs], np.float64)
    ms_per_element = 0.0
    for _ in range(ROUNDS):  # each number is the best one given the other
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
    """Profiled layers, and boundaries with their elements, in milliseconds of whole runs.

    Where layers are timed converting their input (`timed_converting`) the time of a conversion corrects the int8 time
    of its only reader: it was timed too long or too short with it.
    """
    conversions = [
        Conversion(boundary, time_model.ms_per_element * elements) for boundary, elements in boundaries.items()
    ]
    if not timed_converting:
        scaled_layers = tuple(scaled(layer, time_model.factor) for layer in layers)
        return CostModel(scaled_layers, tuple(conversions), float_ms)
    own = {name: entry.milliseconds for entry in conversions for name in entry.boundary.readers}
    return CostModel(tuple(scaled(layer, time_model.factor, own[layer.name]) for layer in layers), (), float_ms)


def scaled(layer: LayerCost, factor: float, more_in_int8: float = 0.0) -> LayerCost:
    """A layer's times by a factor, and its int8 times with `more_in_int8` milliseconds added, none below 0."""
    variants = tuple(
        replace(variant, milliseconds=max(0.0, factor * variant.milliseconds + more_in_int8))
        for variant in layer.variants
    )
    return replace(layer, float_ms=factor * layer.float_ms, variants=variants)
