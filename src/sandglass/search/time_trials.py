"""Measured times of whole runs of a few artifacts, and the time model that is fitted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.core import host
from sandglass.core.progress import Say
from sandglass.graph.io import load_graph
from sandglass.search.conversions import boundaries
from sandglass.search.costs import Assignment, Boundary, CostModel, LayerCost
from sandglass.search.inputs import SearchInputs
from sandglass.search.run import TIMES, Run
from sandglass.search.timing import WholeRun, cost_model, factor_bounds, fit_time_model
from sandglass.search.trials import RepairedPlan, build_trial, plan_with

TIMED_ARTIFACTS = 5  # float, full int8, and three artifacts with half of the layers in int8


def measure_cost_model(
    inputs: SearchInputs,
    repaired: RepairedPlan,
    layers: Sequence[LayerCost],
    full: Artifact,
    base: Artifact,
    run: Run,
) -> CostModel:
    """The profiled `layers` with times that add up to the times of whole runs, and the times of conversions.

    The float artifact `base`, `full`, and three artifacts with half of the layers in int8 are timed. The three are
    built here: one with every other layer in int8, which has the most conversions, and one each with the first and the
    second half, which have the fewest.
    """
    sizes = boundaries(load_graph(inputs.source.graph), inputs.spec, repaired.integer_layers)
    trials = _halves(layers)
    halves = [
        _build_part(inputs, repaired, layers, part, run.scratch / f"half{number}", run.say)
        for number, part in enumerate(trials[1:])
    ]
    speeds = run.timer.whole_runs([base, full, *halves], run.say)
    run.left.step(TIMES)
    float_ms, *trial_ms = (speed.median for speed in speeds)
    profiled = CostModel(tuple(layers), (), float_ms)
    runs = [
        WholeRun(profiled.saved_ms(part), crossed_elements(sizes, part), float_ms - milliseconds)
        for part, milliseconds in zip(trials, trial_ms, strict=True)
    ]
    # If times of layers include conversions, they may be too long: the time of a conversion can then be negative.
    least = -np.inf if inputs.spec.timed_converting else 0.0
    time_model = fit_time_model(runs, factor_bounds(host.threads()), least)
    run.say(
        f"search: float takes {float_ms:.2f} ms, full int8 {trial_ms[0]:.2f} ms; time model: {time_model.factor:.2f} "
        f"times the profiled times of layers, {1e6 * time_model.ms_per_element:+.2f} ms per million converted elements"
    )
    return cost_model(time_model, layers, sizes, float_ms, inputs.spec.timed_converting)


def crossed_elements(sizes: Mapping[Boundary, int], assignment: Assignment) -> int:
    """The number of elements in all tensors that an assignment converts."""
    return sum(elements for boundary, elements in sizes.items() if boundary.is_crossed(assignment))


def _halves(layers: Sequence[LayerCost]) -> list[Assignment]:
    """Four assignments: all layers in int8, every other one, the first half, and the second half.

    Each layer has its first variant, the one with the most bits.
    """
    middle = len(layers) // 2
    parts = (layers, layers[::2], layers[:middle], layers[middle:])
    return [{layer.name: layer.variants[0] for layer in part} for part in parts]


def _build_part(
    inputs: SearchInputs,
    repaired: RepairedPlan,
    layers: Sequence[LayerCost],
    part: Assignment,
    folder: Path,
    say: Say,
) -> Artifact:
    """The artifact with the layers of `part` in int8 and the other `layers` in float."""
    rest = {layer.name: "in float to measure times" for layer in layers if layer.name not in part}
    return build_trial(inputs, plan_with(inputs, repaired, {}, rest), folder, say)
