"""A budget, and the verdict on an artifact: by its change with its interval, and by its fidelity."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sandglass.core.errors import InputError
from sandglass.search.budget import Budget, check_budget
from sandglass.search.fidelity_check import FidelityResult

BUDGET = Budget(0.5, "AP", 0.985)
GOOD = FidelityResult(0.99, 0.988, 0.986)
CLOSE = FidelityResult(0.99, 0.987, 0.984)
POOR = FidelityResult(0.98, 0.98, 0.98)
WITHIN = {"value": -0.001, "low": -0.004, "high": 0.002}
WIDE = {"value": -0.001, "low": -0.021, "high": 0.02}
EDGE = {"value": -0.004999, "low": -0.021, "high": 0.02}
OVER = {"value": -0.006, "low": -0.021, "high": 0.02}
TASK: Any = SimpleNamespace(METRICS=("AP", "AR"), LEAST_FIDELITY=0.97)


@pytest.mark.parametrize(
    ("change", "fidelity", "met", "text"),
    [
        (
            WITHIN,
            GOOD,
            True,
            "0.10 points (95 %: -0.20 .. 0.40), within 0.5; fidelity is 0.9900, 0.9880 with the calibration images",
        ),
        (WIDE, GOOD, True, "100 images are too few to prove the budget of 0.5 (about 2500 are enough)"),
        (EDGE, GOOD, True, "100 images are too few to prove the budget of 0.5 (the drop is too close to the budget)"),
        (OVER, GOOD, False, "over the budget of 0.5"),
        (WITHIN, CLOSE, False, "0.9870 with the calibration images: on new images it may fall below the minimum of"),
        (WIDE, CLOSE, False, "0.9870 with the calibration images: on new images it may fall below"),
        (WITHIN, POOR, False, "fidelity is 0.9800, below the minimum of 0.985"),
        (WIDE, POOR, False, "fidelity is 0.9800, below the minimum of 0.985"),
        (None, GOOD, True, "fidelity is 0.9900, 0.9880 with the calibration images; the dataset has no labels"),
        (None, POOR, False, "fidelity is 0.9800, below the minimum of 0.985; the dataset has no labels"),
    ],
)
def test_the_verdict_is_that_of_the_interval_and_of_fidelity(
    change: dict[str, float] | None, fidelity: FidelityResult, met: bool, text: str
) -> None:
    """Within the budget by its interval, by its value alone with the images that proof would take, or over it."""
    verdict = check_budget(change, fidelity, 100, BUDGET)
    assert verdict.met is met
    assert text in verdict.text


def test_a_budget_takes_defaults_from_its_task() -> None:
    assert Budget.of_task(TASK, 0.5) == Budget(0.5, "AP", 0.97, 0.0)
    assert Budget.of_task(TASK, 1.0, "AR", 0.0, 0.5) == Budget(1.0, "AR", 0.0, 0.5)


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(InputError, match="unknown metric 'mIoU'"):
        Budget.of_task(TASK, 0.5, "mIoU")
