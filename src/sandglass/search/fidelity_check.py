"""The acceptance check of a choice: fidelity on all available images, with a margin for new images.

Fidelity is the agreement with the float network on the same images. It needs no labels, so that the calibration images
count too, with the variants that a task makes of them. The margin is needed because the best of many choices has a high
fidelity on a few dozen images partly by chance.
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

# Share of the allowed loss of fidelity that is reserved for new images. In experiments new images lost nearly twice as
# much as the images on which a choice was made. It bounds the loss of a lucky choice on new images.
MARGIN = 0.45
# Inputs of the calibration set on which a choice is checked, at most. It bounds the time of a check.
INPUTS = 128
# Samples after which a simulation may be stopped, and then after each further portion of this size. It bounds the time
# spent on hopeless choices. At least half of a portion must have an agreement that is a number.
PORTION = 8
# Number of standard errors between the mean so far and the minimum from which a choice is hopeless. Of means of
# normally distributed samples one in 30,000 is so low by chance.
HOPELESS = 4.0


@dataclass(frozen=True)
class FidelityResult:
    """Fidelity to the float network, 0 to 1: on the `evaluation` set, and `overall`, with the calibration images.

    `with_margin` is `overall` minus MARGIN of the allowed loss. With a minimum of 0.98 the allowed loss is 0.02, and
    the margin 0.009.
    """

    evaluation: float
    overall: float
    with_margin: float

    @staticmethod
    def of_evaluation(value: float) -> FidelityResult:
        """The result of a check on the evaluation set alone."""
        return FidelityResult(value, value, value)

    @property
    def lowest(self) -> float:
        """The number that has to reach the minimum: the smaller of `evaluation` and `with_margin`."""
        return min(self.evaluation, self.with_margin)


@dataclass(frozen=True)
class FidelityCheck:
    """The predictions of the float network on both sets of images, with which simulations and artifacts are compared.

    `base` is the evaluation of the float artifact. `expected` holds the prediction of the float graph for each of
    `looks`, which are calibration inputs.
    """

    inputs: SearchInputs
    base: Evaluation
    min_fidelity: float
    looks: tuple[Look, ...]
    expected: tuple[Prediction, ...]


def prepare_check(inputs: SearchInputs, base: Evaluation, min_fidelity: float) -> FidelityCheck:
    """Run the float graph on the calibration inputs, and keep its predictions."""
    looks = spread(inputs.looks, inputs_to_try(inputs.total_macs, INPUTS))
    expected = _predict(inputs, looks, GraphSession(inputs.source.graph, threads=1))
    return FidelityCheck(inputs, base, min_fidelity, tuple(looks), tuple(expected))


def check_plan(check: FidelityCheck, plan: Plan) -> FidelityResult:
    """The fidelity of a plan, by simulation; if it is far too low, the first samples of the evaluation set suffice."""
    session = simulate(check.inputs.source.graph, plan, check.inputs.spec, threads=1)
    return check_session(check, session, _inferred(check, session))


def check_session(check: FidelityCheck, session: Session, predictions: Iterable[Prediction]) -> FidelityResult:
    """The fidelity of a session; its `predictions` for the evaluation set are read until the result is clear."""
    task, agreements = check.inputs.task, list[Mapping[str, float]]()
    for before, after in zip(check.base.predictions, predictions, strict=False):
        agreements.append(task.agreement(before, after))
        if len(agreements) % PORTION == 0:
            values = _first_measure(task, agreements)
            if is_hopeless(values, check.min_fidelity):
                return FidelityResult.of_evaluation(float(np.nanmean(values)))
    evaluation = _mean_fidelity(check, agreements)
    if not evaluation >= check.min_fidelity:  # true for NaN too
        return FidelityResult.of_evaluation(evaluation)
    return _with_calibration(check, agreements, session)


def check_artifact(check: FidelityCheck, result: Evaluation) -> FidelityResult:
    """The fidelity of an evaluated artifact; its runtime is started only if the evaluation set passes the check."""
    agreements = _agreements(check.inputs.task, check.base.predictions, result.predictions)
    evaluation = _mean_fidelity(check, agreements)
    if not evaluation >= check.min_fidelity:
        return FidelityResult.of_evaluation(evaluation)
    with opened(result.artifact, host.threads()) as session:
        return _with_calibration(check, agreements, session)


def is_hopeless(agreements: Sequence[float], least: float) -> bool:
    """Whether the mean over all samples will almost surely be below `least`; `agreements` of NaN are ignored."""
    values = np.array(agreements)[np.isfinite(agreements)]  # (samples with an agreement,)
    if len(values) < PORTION // 2:
        return False
    standard_error = values.std(ddof=1) / len(values) ** 0.5
    return bool(values.mean() + HOPELESS * standard_error < least)


def _with_calibration(
    check: FidelityCheck, agreements: Sequence[Mapping[str, float]], session: Session
) -> FidelityResult:
    """The result after the evaluation set has passed: it adds the session's predictions for the calibration inputs."""
    task = check.inputs.task
    more = _agreements(task, check.expected, _predict(check.inputs, check.looks, session))
    # The same id in both sets does not mean the same image.
    images = [*_images(check.base.predictions, "evaluation"), *_images(check.expected, "calibration")]
    overall = float(mean_agreement(task, [*agreements, *more], images)[task.FIDELITY[0]]["value"])
    return FidelityResult(_mean_fidelity(check, agreements), overall, overall - MARGIN * (1 - check.min_fidelity))


def _mean_fidelity(check: FidelityCheck, agreements: Sequence[Mapping[str, float]]) -> float:
    """The fidelity on the evaluation set; agreements are first averaged over the samples of an image."""
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
    """Predictions for looks, without a flip test."""
    return list(
        in_threads(lambda look: inputs.prediction(session.run(look.inputs), look), looks, "a calibration input")
    )
