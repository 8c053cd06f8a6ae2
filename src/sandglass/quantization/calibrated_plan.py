"""A plan with ranges and thresholds, but without repairs: it takes seconds and serves all targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sandglass.core.progress import Say
from sandglass.quantization.calibration import Calibration, drawn
from sandglass.quantization.plan import Plan
from sandglass.sources.source import Source


def calibrated_plan(source: Source, calibration: Calibration, samples: Sequence[np.ndarray], say: Say) -> Plan:
    """The plan from `samples` of the calibration set, each (1, channels, height, width) float32.

    Raises DatasetError without samples and PlanError for activations that are not finite.
    """
    from sandglass.quantization import automatic_method, make_plan
    from sandglass.quantization.thresholds import AUTO

    say(f"plan: measuring activation ranges on {len(samples)} samples, method {calibration.method}")
    origin = drawn(calibration, len(samples))
    if calibration.method == AUTO:
        plan = automatic_method.automatic_plan(source.graph, samples, origin)
        say(f"plan: the method {plan.method} has the least noise at the outputs")
    else:
        plan = make_plan.make_plan(source.graph, samples, calibration.method, origin)
    for layer in plan.layers.values():
        if layer.keep_float:
            say(f"plan: {layer.name} stays in float: {layer.reason}")
    return plan
