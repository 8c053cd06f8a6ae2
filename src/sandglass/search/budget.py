"""The budget of a search, and the check whether an artifact keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandglass.core.errors import InputError
from sandglass.metrics import Change
from sandglass.tasks import Task

if TYPE_CHECKING:
    from sandglass.search.fidelity_check import FidelityResult

# Number of images above which a verdict does not say how many would prove the budget: about 20 times the validation
# sets of COCO and ImageNet. It changes only the words of a verdict.
MOST_IMAGES = 1e6


@dataclass(frozen=True)
class Budget:
    """The requirements for an int8 artifact.

    max_drop        largest drop of `metric` against float, in points (hundredths)
    min_fidelity    smallest agreement with the float network, 0 to 1
    min_int8_share  smallest share of the multiply-accumulates in int8, 0 to 1, even where that makes layers slower
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
        """A budget for a task; by default with the task's first metric and its own minimum fidelity.

        Raises InputError for a metric that the task does not have.
        """
        if metric is not None and metric not in task.METRICS:
            raise InputError(f"unknown metric {metric!r}", f"the task has {', '.join(task.METRICS)}")
        least = task.LEAST_FIDELITY if min_fidelity is None else min_fidelity
        return Budget(max_drop, metric or task.METRICS[0], least, min_int8_share)


@dataclass(frozen=True)
class Verdict:
    """Whether an artifact keeps a budget, and one sentence that explains the result and its certainty."""

    met: bool
    text: str


def check_budget(change: Change | None, fidelity: FidelityResult, images: int, budget: Budget) -> Verdict:
    """The verdict on an artifact with this fidelity and this paired change of the budget's metric.

    `change` is a difference of shares (0 to 1), measured on `images` images; it is None if the dataset has no labels.
    The share of int8 is not checked here, because a search tries no choices below it.
    """
    agrees, fidelity_text = fidelity.lowest >= budget.min_fidelity, _fidelity_text(fidelity, budget.min_fidelity)
    if change is None:
        return Verdict(agrees, f"{fidelity_text}; the dataset has no labels to measure {budget.metric}")
    drop, worst, best = (-100 * change[key] for key in ("value", "low", "high"))
    drop_text = f"{budget.metric} drops by {drop:.2f} points (95 %: {best:.2f} .. {worst:.2f})"
    if drop > budget.max_drop:
        return Verdict(False, f"{drop_text}, over the budget of {budget.max_drop:g}; {fidelity_text}")
    if worst <= budget.max_drop:
        return Verdict(agrees, f"{drop_text}, within {budget.max_drop:g}; {fidelity_text}")
    # The half width of the interval falls with the square root of the number of images. Example: a drop of 0.2 with
    # a worst case of 0.8 on 100 images, and a budget of 0.5: the half width 0.6 has to halve, with 400 images.
    needed = images * ((worst - drop) / max(budget.max_drop - drop, 1e-9)) ** 2
    enough = f"about {needed:.0f} are enough" if needed < MOST_IMAGES else "the drop is too close to the budget"
    return Verdict(
        agrees,
        f"{drop_text}: {images} images are too few to prove the budget of {budget.max_drop:g} ({enough}); "
        f"{fidelity_text}",
    )


def _fidelity_text(fidelity: FidelityResult, least: float) -> str:
    text = f"fidelity is {fidelity.evaluation:.4f}"
    if fidelity.evaluation < least:
        return f"{text}, below the minimum of {least:g}"
    text += f", {fidelity.overall:.4f} with the calibration images"
    return text if fidelity.lowest >= least else f"{text}: on new images it may fall below the minimum of {least:g}"
