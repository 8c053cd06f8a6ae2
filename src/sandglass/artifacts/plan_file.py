"""The plan of an int8 artifact, in a file next to its folder: written once, and used again by the same command.

A plan takes a minute to make. It says what it was made from, as a hash that covers its content too: a plan that was
edited by hand is not taken for the one that the command would make, and is not replaced either.
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

MADE_FROM = "made_from"  # the field of a plan's record of its calibration that has the hash


def plan_path(out: Path, target: Target) -> Path:
    """The file of a target's plan next to its artifact: `out/BACKEND-int8.plan.json`."""
    return out / f"{target.folder}.plan.json"


def kept_plan(path: Path, inputs: Mapping[str, object], force: bool, make: Callable[[], Plan]) -> Plan:
    """The plan in the file `path` if it was made from `inputs`, which are JSON-able; else a new one, which is written.

    Raises ArtifactError if the file holds another plan, unless `force`.
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
    """Write a plan. Raises ArtifactError if the file holds another one, perhaps edited by hand, unless `force`."""
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
        f"{path} exists already and is another plan", "give it as --plan, choose another folder, or use --force"
    )


def _hash(plan: Plan, inputs: Mapping[str, object]) -> str:
    """Of what a plan was made from and of its content, apart from this hash itself: 64 hex digits."""
    content = {name: value for name, value in plan.calibration.items() if name != MADE_FROM}
    data = [dict(inputs), replace(plan, calibration=content).sha256]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
