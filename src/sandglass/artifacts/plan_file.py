"""The plan of an int8 artifact, in a file next to its folder. The same command reads it again.

Making a plan takes about a minute. The file holds a hash over the inputs and the content of the plan. So a plan that
was edited by hand is recognized: it is not reused, and it is not replaced either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sandglass.artifacts.target import Target
from sandglass.core.errors import ArtifactError, PlanError
from sandglass.quantization.plan import Plan

MADE_FROM = "made_from"  # field in the plan's record of its calibration, for the hash


def plan_path(out: Path, target: Target) -> Path:
    """The file of a target's plan next to its artifact: `out/BACKEND-int8.plan.json`."""
    return out / f"{target.folder}.plan.json"


def load_or_make_plan(path: Path, inputs: Mapping[str, object], force: bool, make: Callable[[], Plan]) -> Plan:
    """The plan in the file `path` if it was made from `inputs` (JSON data); otherwise a new one, which is written.

    `make` returns the new plan. Raises ArtifactError if the file holds another plan and `force` is false.
    """
    plan = _load(path)
    if plan is not None and plan.calibration.get(MADE_FROM) == _hash(plan, inputs):
        return plan
    if path.exists() and not force:
        raise _exists(path)
    plan = make()
    plan = replace(plan, calibration={**plan.calibration, MADE_FROM: _hash(plan, inputs)})
    plan.save(path)
    return plan


def save_plan(plan: Plan, path: Path, force: bool) -> None:
    """Write a plan. Raises ArtifactError if the file holds another plan and `force` is false."""
    if path.exists() and not force:
        known = _load(path)
        if known is None or known.sha256 != plan.sha256:
            raise _exists(path)
    plan.save(path)


def _load(path: Path) -> Plan | None:
    try:
        return Plan.load(path) if path.exists() else None
    except PlanError:
        return None


def _exists(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} exists already and is another plan",
        "give it with --plan, choose another folder, or use --force to replace it",
    )


def _hash(plan: Plan, inputs: Mapping[str, object]) -> str:
    """The SHA-256, in hex digits, over the inputs of a plan and its content without this hash."""
    content = {name: value for name, value in plan.calibration.items() if name != MADE_FROM}
    data = [dict(inputs), replace(plan, calibration=content).sha256]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
