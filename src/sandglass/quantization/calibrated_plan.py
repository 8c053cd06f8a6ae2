"""The plan of a deployment: read from a file, or made from the calibration set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sandglass.core.errors import ArtifactError, PlanError
from sandglass.core.progress import Say
from sandglass.quantization.calibration import Calibration, drawn
from sandglass.quantization.plan import Plan
from sandglass.sources.source import Source


def calibrated_plan(
    source: Source, calibration: Calibration, samples: Sequence[np.ndarray], file: Path | None, say: Say
) -> Plan:
    """The quantization plan: read from `file` and checked against the graph, or computed from the calibration set."""
    from sandglass.quantization import automatic_method, make_plan
    from sandglass.quantization.thresholds import AUTO

    if file is not None:
        return make_plan.load_plan(file, source.graph)
    say(f"plan: reading activation ranges from {len(samples)} samples, method {calibration.method}")
    origin = drawn(calibration, len(samples))
    if calibration.method == AUTO:
        plan = automatic_method.automatic_plan(source.graph, samples, origin)
        say(f"plan: the method {plan.method} leaves the least noise at the outputs")
    else:
        plan = make_plan.make_plan(source.graph, samples, calibration.method, origin)
    for layer in plan.layers.values():
        if layer.keep_float:
            say(f"plan: {layer.name} stays in float: {layer.reason}")
    return plan


def save_plan(plan: Plan, path: Path, force: bool) -> None:
    """Write the plan; another one, which may be edited by hand, is not replaced unless forced."""
    if path.exists() and not force and not _holds(path, plan):
        raise ArtifactError(
            f"{path} exists already and is another plan", "give it as --plan, choose another folder, or use --force"
        )
    plan.save(path)


def _holds(path: Path, plan: Plan) -> bool:
    try:
        return Plan.load(path).sha256 == plan.sha256
    except PlanError:
        return False
