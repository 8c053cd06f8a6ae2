"""The plan next to an artifact: the same command uses it again, and never overwrites one that was edited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sandglass.artifacts.plan_file import MADE_FROM, load_or_make_plan, plan_path, save_plan
from sandglass.artifacts.target import Target
from sandglass.core.errors import ArtifactError
from sandglass.quantization.plan import Plan, PlannedLayer, TensorRange

INPUTS = {"graph": "a", "calibration": ["images", 64]}
PLAN = Plan("a", "mse", {"x": TensorRange(-1.0, 1.0, 1.0)}, {"c": PlannedLayer("c", "Conv", "x", "y", "w")}, {})


def never() -> Plan:
    """Fails the test: nothing is to be made again."""
    raise AssertionError("the plan was made again")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a plan that was made from INPUTS."""
    path = plan_path(tmp_path, Target("ncnn", "int8"))
    assert path.name == "ncnn-int8.plan.json"
    load_or_make_plan(path, INPUTS, False, lambda: PLAN)
    return path


def test_plan_from_the_same_inputs_is_not_made_again(path: Path) -> None:
    """It says what it was made from; all else is as it was made."""
    plan = load_or_make_plan(path, INPUTS, False, never)
    assert replace(plan, calibration={}) == PLAN
    assert len(str(plan.calibration[MADE_FROM])) == 64


@pytest.mark.parametrize("change", ["inputs", "edited", "damaged"])
def test_another_plan_is_kept_unless_forced(change: str, path: Path) -> None:
    """Made from other inputs, edited by hand, or no plan at all."""
    inputs = {**INPUTS, "graph": "b"} if change == "inputs" else INPUTS
    if change == "edited":
        path.write_text(path.read_text().replace('"keep_float": false', '"keep_float": true'))
    elif change == "damaged":
        path.write_text("{")
    before = path.read_text()
    with pytest.raises(ArtifactError, match="exists already and is another plan"):
        load_or_make_plan(path, inputs, False, never)
    assert path.read_text() == before
    load_or_make_plan(path, inputs, True, lambda: PLAN)
    assert load_or_make_plan(path, inputs, False, never).layers == PLAN.layers


def test_the_same_plan_may_be_saved_again(tmp_path: Path) -> None:
    """A plan that a user names is saved next to the artifact; another one is not replaced."""
    path = tmp_path / "p.plan.json"
    save_plan(PLAN, path, False)
    save_plan(PLAN, path, False)
    other = replace(PLAN, method="kl")
    with pytest.raises(ArtifactError, match="another plan"):
        save_plan(other, path, False)
    save_plan(other, path, True)
    assert Plan.load(path).method == "kl"
