"""What a search has to keep, and whether an artifact keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandglass.core.errors import InputError
from sandglass.metrics import Change
from sandglass.tasks import Task

if TYPE_CHECKING:
    from sandglass.search.fidelity_check import FidelityResult

# Images of an evaluation set beyond which a verdict no longer names the number that would prove the budget: about
# 20 times COCO's and ImageNet's validation sets. It changes the words of a verdict only.
MOST_IMAGES = 1e6


@dataclass(frozen=True)
class Budget:
    """What an int8 artifact may lose against float.

    `max_drop` is in points (hundredths) of `metric`. `min_fidelity` is the least agreement with the float network, 0 to
    1. `min_int8_share` is the least share of the multiply-accumulates that runs in int8, 0 to 1, even where that makes
    layers slower.
    """

    max_drop: float
    metric: str
    min_fidelity: float
    min_int8_share: float = 0.0

    @staticmethod
    def of_task(
        task: Task,
        max_drop: float,
        metric: str | None = None,
        min_fidelity: float | None = None,
        min_int8_share: float = 0.0,
    ) -> Budget:
        """A budget with the task's first metric and its own least fidelity where none are named.

        Raises InputError for a metric that the task lacks.
        """
        if metric is not None and metric not in task.METRICS:
            raise InputError(f"unknown metric {metric!r}", f"the task has {', '.join(task.METRICS)}")
        least = task.LEAST_FIDELITY if min_fidelity is None else min_fidelity
        return Budget(max_drop, metric or task.METRICS[0], least, min_int8_share)


@dataclass(frozen=True)
class Verdict:
    """Whether an artifact keeps a budget, and one sentence that says how sure that is."""

    met: bool
    text: str


def check_budget(change: Change | None, fidelity: FidelityResult, images: int, budget: Budget) -> Verdict:
    """The verdict on an artifact with a fidelity and a paired change of the budget's metric.

    `change` is in shares of 1, and None without truths to measure with. It was measured on `images` images. The share
    of int8 is not checked here: a search does not try choices below it.
    """
    agrees, fidelity_text = fidelity.lowest >= budget.min_fidelity, _fidelity_text(fidelity, budget.min_fidelity)
    if change is None:
        return Verdict(agrees, f"{fidelity_text}; there are no truths to measure {budget.metric} with")
    drop, worst, best = (-100 * change[key] for key in ("value", "low", "high"))
    drop_text = f"{budget.metric} drops by {drop:.2f} points (95 %: {best:.2f} .. {worst:.2f})"
    if drop > budget.max_drop:
        return Verdict(False, f"{drop_text}, over the budget of {budget.max_drop:g}; {fidelity_text}")
    if worst <= budget.max_drop:
        return Verdict(agrees, f"{drop_text}, within {budget.max_drop:g}; {fidelity_text}")
    # The interval's half width falls with the square root of the number of images.
    needed = images * ((worst - drop) / max(budget.max_drop - drop, 1e-9)) ** 2
    enough = f"about {needed:.0f} would do" if needed < MOST_IMAGES else "and the drop is too close to it to prove it"
    return Verdict(
        agrees, f"{drop_text}: {images} images are too few to prove {budget.max_drop:g}, {enough}; {fidelity_text}"
    )


def _fidelity_text(fidelity: FidelityResult, least: float) -> str:
    text = f"fidelity is {fidelity.evaluation:.4f}"
    if fidelity.evaluation < least:
        return f"{text}, below the minimum of {least:g}"
    text += f", {fidelity.overall:.4f} with the calibration images"
    return text if fidelity.lowest >= least else f"{text}: on other images it may be below the minimum of {least:g}"
