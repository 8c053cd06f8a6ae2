"""The acceptance check of a choice: fidelity on all images at hand, with a margin for those that are not.

Fidelity is the agreement with the float network on the same images. It needs no truths, so that the calibration images
count as well, as they are and as the task looks at them otherwise. A few dozen images are easier or harder than others,
and of many choices one has the highest fidelity on them by luck: hence the margin.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sandglass.backends import Session
from sandglass.core import host
from sandglass.core.parallel import in_threads
from sandglass.graph.session import GraphSession
from sandglass.graph.work import inputs_to_try, spread
from sandglass.measure.evaluation import Evaluation, flips, infer, mean_agreement, opened
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate
from sandglass.search.inputs import Look, SearchInputs
from sandglass.tasks import Prediction, Task

# Share of the allowed loss of fidelity that is kept for images not at hand: other images were seen to lose nearly twice
# as much as those that a choice was made on. It bounds what a choice that is lucky on these images may lose on others.
MARGIN = 0.45
# Inputs of the calibration set that a choice is checked on, at most. It bounds the time of a check.
INPUTS = 128
# Samples after which a simulation may be given up: the first moment, and the distance to the next. It bounds the time
# spent on hopeless choices; half of a portion has to have an agreement.
PORTION = 8
# Standard errors between the mean so far and the minimum from which a choice is hopeless: one in 30,000 means of
# normally distributed samples is as far off by chance.
HOPELESS = 4.0


@dataclass(frozen=True)
class FidelityResult:
    """Fidelity to the float network, 0 to 1: on the `evaluation` set, and `overall`, with the calibration images.

    `with_margin` is `overall` less MARGIN of the allowed loss.
    """

    evaluation: float
    overall: float
    with_margin: float

    @staticmethod
    def of_evaluation(value: float) -> FidelityResult:
        """A result for which the evaluation set alone was looked at."""
        return FidelityResult(value, value, value)

    @property
    def lowest(self) -> float:
        """What has to reach the minimum: the evaluation set's fidelity, and the overall one with its margin."""
        return min(self.evaluation, self.with_margin)


@dataclass(frozen=True)
class FidelityCheck:
    """The float network's predictions on both sets of images, to hold simulations and artifacts against.

    `base` is the float artifact's evaluation, and `expected` the float graph's prediction for each of `looks`, which
    are calibration inputs.
    """

    inputs: SearchInputs
    base: Evaluation
    min_fidelity: float
    looks: tuple[Look, ...]
    expected: tuple[Prediction, ...]


def prepare_check(inputs: SearchInputs, base: Evaluation, min_fidelity: float) -> FidelityCheck:
    """Run the float graph on the calibration inputs."""
    looks = spread(inputs.looks, inputs_to_try(inputs.total_macs, INPUTS))
    expected = _predict(inputs, looks, GraphSession(inputs.source.graph, threads=1))
    return FidelityCheck(inputs, base, min_fidelity, tuple(looks), tuple(expected))


def check_plan(check: FidelityCheck, plan: Plan) -> FidelityResult:
    """The fidelity of a plan, by simulation; where it is far too low, on the first samples of the evaluation set."""
    session = simulate(check.inputs.source.graph, plan, check.inputs.spec, threads=1)
    return check_session(check, session, _inferred(check, session))


def check_session(check: FidelityCheck, session: Session, predictions: Iterable[Prediction]) -> FidelityResult:
    """The fidelity of a session whose `predictions` for the evaluation set are read no further than needed."""
    task, agreements = check.inputs.task, list[Mapping[str, float]]()
    for before, after in zip(check.base.predictions, predictions, strict=False):
        agreements.append(task.agreement(before, after))
        if len(agreements) % PORTION == 0:
            values = _first_measure(task, agreements)
            if is_hopeless(values, check.min_fidelity):
                return FidelityResult.of_evaluation(float(np.nanmean(values)))
    evaluation = _mean_fidelity(check, agreements)
    if not evaluation >= check.min_fidelity:  # also where it is NaN
        return FidelityResult.of_evaluation(evaluation)
    return _with_calibration(check, agreements, session)


def check_artifact(check: FidelityCheck, result: Evaluation) -> FidelityResult:
    """The fidelity of an artifact that was evaluated; its runtime is opened only if the evaluation set is passed."""
    agreements = _agreements(check.inputs.task, check.base.predictions, result.predictions)
    evaluation = _mean_fidelity(check, agreements)
    if not evaluation >= check.min_fidelity:
        return FidelityResult.of_evaluation(evaluation)
    with opened(result.artifact, host.threads()) as session:
        return _with_calibration(check, agreements, session)


def is_hopeless(agreements: Sequence[float], least: float) -> bool:
    """Whether the mean of more samples like these would be below `least`; NaN where a sample has no agreement."""
    values = np.array(agreements)[np.isfinite(agreements)]  # (samples with an agreement,)
    if len(values) < PORTION // 2:
        return False
    standard_error = values.std(ddof=1) / len(values) ** 0.5
    return bool(values.mean() + HOPELESS * standard_error < least)


def _with_calibration(
    check: FidelityCheck, agreements: Sequence[Mapping[str, float]], session: Session
) -> FidelityResult:
    """The result for an evaluation set that passed, with the session's predictions for the calibration inputs."""
    task = check.inputs.task
    more = _agreements(task, check.expected, _predict(check.inputs, check.looks, session))
    # Images of the two sets are different ones, though they may have the same number.
    images = [*_images(check.base.predictions, "evaluation"), *_images(check.expected, "calibration")]
    overall = float(mean_agreement(task, [*agreements, *more], images)[task.FIDELITY[0]]["value"])
    return FidelityResult(_mean_fidelity(check, agreements), overall, overall - MARGIN * (1 - check.min_fidelity))


def _mean_fidelity(check: FidelityCheck, agreements: Sequence[Mapping[str, float]]) -> float:
    """Fidelity on the evaluation set."""
    task, images = check.inputs.task, _images(check.base.predictions, "evaluation")
    return float(mean_agreement(task, agreements, images)[task.FIDELITY[0]]["value"])


def _images(predictions: Iterable[Prediction], dataset: str) -> list[Hashable]:
    return [(dataset, entry["image_id"]) for entry in predictions]


def _agreements(task: Task, before: Sequence[Prediction], after: Sequence[Prediction]) -> list[Mapping[str, float]]:
    return [task.agreement(first, second) for first, second in zip(before, after, strict=True)]


def _first_measure(task: Task, agreements: Sequence[Mapping[str, float]]) -> list[float]:
    return [agreement[task.FIDELITY[0]] for agreement in agreements]


def _inferred(check: FidelityCheck, session: Session) -> Iterator[Prediction]:
    """The session's predictions for the samples of the evaluation set, in their order."""
    artifact, dataset, task = check.base.artifact, check.base.dataset, check.inputs.task
    flip_test, workers = flips(artifact.card), host.threads()
    samples = task.samples(dataset)
    for part in infer(task, artifact, session, dataset, samples, flip_test=flip_test, workers=workers):
        yield from part.values()


def _predict(inputs: SearchInputs, looks: Sequence[Look], session: Session) -> list[Prediction]:
    """Predictions for looks, each as it is: no mirror image is averaged in."""
    return list(
        in_threads(lambda look: inputs.prediction(session.run(look.inputs), look), looks, "a calibration input")
    )
