"""The gate that a choice of int8 layers passes: fidelity on all images at hand, with a margin for those that are not.

A few dozen images are easier or harder than others, and of many choices one keeps the most on them by luck. Fidelity
needs no truths, so that the calibration images tell it as well, as they are and as the task looks at them otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from sandglass.backends import Session
from sandglass.core import host
from sandglass.core.parallel import in_threads
from sandglass.graph.work import inputs_to_try, spread
from sandglass.measure.evaluation import Evaluation, flips, infer, mean_agreement, opened
from sandglass.quantization.plan import Plan
from sandglass.search.workbench import Workbench

MARGIN = 0.45  # of what fidelity may lose: other images lose nearly twice as much as those at hand
INPUTS = 128  # of the calibration set, the most
PORTION = 8  # samples, after each of which a choice may be given up
HOPELESS = 4.0  # standard errors that the mean lies below what is asked for


@dataclass(frozen=True)
class Kept:
    """Fidelity to the float network: `value` on the evaluation set, `together` with the calibration images.

    `sure` is MARGIN of the allowed loss below `together`.
    """

    value: float
    together: float
    sure: float

    @property
    def least(self) -> float:
        """The lower of what was seen and what is sure."""
        return min(self.value, self.sure)


def hopeless(agreed: Sequence[float], least: float) -> bool:
    """Whether the mean of more samples like these would be below `least`; NaN where a sample has no agreement."""
    values = np.array(agreed)[np.isfinite(agreed)]
    if len(values) < PORTION // 2:
        return False
    return bool(values.mean() + HOPELESS * values.std(ddof=1) / len(values) ** 0.5 < least)


class Gate:
    """The float network's predictions on both sets of images, for what is simulated or built to be held against.

    Fidelity is to be `least` or more. Where the evaluation set alone says that it is less, no other image is looked at.
    """

    def __init__(self, bench: Workbench, base: Evaluation, least: float) -> None:
        from sandglass.graph.session import GraphSession

        self.bench, self.base, self.least = bench, base, least
        count = inputs_to_try(sum(bench.macs.values()), INPUTS)
        self.inputs = spread(bench.looks, count)
        self.expected = self._predicted(GraphSession(bench.source.graph, threads=1))

    def simulated(self, plan: Plan) -> Kept:
        """What a plan keeps that no artifact is built for; where it is far too little, on the first samples alone."""
        from sandglass.quantization.simulate import simulate

        task, artifact, dataset = self.bench.task, self.base.artifact, self.base.dataset
        session, samples = simulate(self.bench.source.graph, plan, self.bench.spec, threads=1), task.samples(dataset)
        agreed: list[Mapping[str, float]] = []
        flipped, workers = flips(artifact.card), host.threads()
        for part in infer(task, artifact, session, dataset, samples, flip_test=flipped, workers=workers):
            for prediction in part.values():
                agreed.append(task.agreement(self.base.predictions[len(agreed)], prediction))
                if len(agreed) % PORTION:
                    continue
                values = [entry[task.FIDELITY[0]] for entry in agreed]
                if hopeless(values, self.least):
                    value = float(np.nanmean(values))
                    return Kept(value, value, value)
        return self._kept(agreed, lambda: nullcontext(session))

    def built(self, result: Evaluation) -> Kept:
        """What an artifact keeps that was evaluated."""
        agreed = self._agreed(self.base.predictions, result.predictions)
        return self._kept(agreed, lambda: opened(result.artifact, host.threads()))

    def _kept(
        self, agreed: Sequence[Mapping[str, float]], session: Callable[[], AbstractContextManager[Session]]
    ) -> Kept:
        """What is kept by the agreements on the evaluation set; `session` opens what runs the calibration inputs."""
        task, name = self.bench.task, self.bench.task.FIDELITY[0]
        images = [(True, entry["image_id"]) for entry in self.base.predictions]
        value = float(mean_agreement(task, agreed, images)[name]["value"])
        if not value >= self.least:
            return Kept(value, value, value)
        with session() as opened_session:
            more = self._agreed(self.expected, self._predicted(opened_session))
        images += [(False, entry["image_id"]) for entry in self.expected]
        together = float(mean_agreement(task, [*agreed, *more], images)[name]["value"])
        return Kept(value, together, together - MARGIN * (1 - self.least))

    def _agreed(
        self, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
    ) -> list[Mapping[str, float]]:
        return [self.bench.task.agreement(a, b) for a, b in zip(before, after, strict=True)]

    def _predicted(self, session: Session) -> list[Mapping[str, Any]]:
        """Predictions for the calibration inputs, each as it is: no mirror image beside it."""

        def one(entry: tuple[Mapping[str, Any], Any]) -> Mapping[str, Any]:
            batch, meta = entry
            found: Mapping[str, Any] = self.bench.decoded(session.run(batch), meta)
            return found

        return list(in_threads(one, self.inputs, "a calibration input"))
