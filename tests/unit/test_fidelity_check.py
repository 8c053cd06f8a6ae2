"""The fidelity check looks at the calibration images too, and asks for a margin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sandglass.measure.evaluation import Evaluation
from sandglass.search.fidelity_check import (
    MARGIN,
    PORTION,
    FidelityCheck,
    FidelityResult,
    check_artifact,
    check_session,
    is_hopeless,
)
from sandglass.search.inputs import Look

LEAST = 0.9
CALIBRATED = 6


class Task:
    """A prediction is a number; fidelity is 1 less the difference of two of them."""

    FIDELITY = ("near",)

    def decode(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Any], card: Any) -> list[dict[str, Any]]:
        """The output itself, for the image that the meta names."""
        return [{"image_id": meta, "value": float(outputs["y"])} for meta in metas]

    def agreement(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
        """1 for equal predictions."""
        return {"near": 1 - abs(before["value"] - after["value"])}


class Inputs:
    """What a check takes from a search's inputs."""

    task = Task()

    def prediction(self, outputs: Mapping[str, np.ndarray], look: Look) -> dict[str, Any]:
        """The task's prediction."""
        return self.task.decode(outputs, [look.view], None)[0]


class Session:
    """Answers with an error for each calibration input, whose number the input is, and counts."""

    def __init__(self, errors: Sequence[float]) -> None:
        self.errors, self.runs = errors, 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The error of that input; the float network's outputs are 0."""
        self.runs += 1
        return {"y": np.array(self.errors[int(inputs["x"])])}


def check(samples: int = 8) -> FidelityCheck:
    """Against a float network whose outputs are 0 on evaluation samples, two an image, and on calibration images."""
    looks = tuple(Look({"x": np.array(i)}, i) for i in range(CALIBRATED))
    expected = tuple({"image_id": i, "value": 0.0} for i in range(CALIBRATED))
    inputs: Any = Inputs()
    return FidelityCheck(inputs, evaluated([0.0] * samples), LEAST, looks, expected)


def evaluated(errors: Sequence[float], session: Session | None = None) -> Evaluation:
    """An evaluation whose predictions are off by these."""
    artifact: Any = SimpleNamespace(isolated=lambda **options: nullcontext(session))
    return Evaluation(artifact, None, {}, {}, {}, predictions(errors), 0.0, 0)


def predictions(errors: Sequence[float]) -> list[dict[str, Any]]:
    """One for each sample of the evaluation set."""
    return [{"image_id": i // 2, "value": error} for i, error in enumerate(errors)]


def result(evaluation: Sequence[float], calibration: Sequence[float]) -> tuple[FidelityResult, int]:
    """The result for an artifact with these errors on both sets, and how many calibration inputs were run."""
    session = Session(calibration)
    return check_artifact(check(len(evaluation)), evaluated(evaluation, session)), session.runs


def test_calibration_images_count_as_well() -> None:
    """Fidelity on easy evaluation images is not that on others: the mean over all samples counts."""
    fidelity, runs = result([0.01] * 8, [0.3] * CALIBRATED)
    assert (fidelity.evaluation, runs) == (pytest.approx(0.99), CALIBRATED)
    assert fidelity.overall == pytest.approx(1 - (8 * 0.01 + CALIBRATED * 0.3) / (8 + CALIBRATED))
    assert fidelity.lowest == fidelity.with_margin < LEAST


def test_a_share_of_the_loss_is_kept_for_other_images() -> None:
    """However much the images at hand agree, all of them have to agree more than the minimum."""
    for errors in ([0.04] * 8, [0.0] * 8, [0.0, 0.02] * 4):
        fidelity, _ = result(errors, errors[:CALIBRATED])
        assert fidelity.with_margin == pytest.approx(fidelity.overall - MARGIN * (1 - LEAST))
        assert fidelity.lowest == fidelity.with_margin


def test_calibration_inputs_are_not_run_if_the_evaluation_set_fails() -> None:
    """Its fidelity alone is the result then."""
    assert result([0.2] * 8, [0.0] * CALIBRATED) == (FidelityResult(*[pytest.approx(0.8)] * 3), 0)


def test_the_lower_of_both_fidelities_counts() -> None:
    """An evaluation set that is easier than the calibration images does not help, nor a harder one hurt twice."""
    fidelity, _ = result([0.095] * 8, [0.0] * CALIBRATED)
    overall = (8 * 0.905 + CALIBRATED) / (8 + CALIBRATED)
    assert fidelity.evaluation == pytest.approx(0.905)
    assert fidelity.lowest == fidelity.with_margin == pytest.approx(overall - MARGIN * (1 - LEAST))
    assert replace(fidelity, with_margin=0.91).lowest == fidelity.evaluation


def test_fidelity_without_a_meaning_does_not_pass() -> None:
    """Where no sample of the evaluation set has an agreement, nothing was shown."""
    fidelity, runs = result([float("nan")] * 8, [0.0] * CALIBRATED)
    assert not fidelity.lowest >= LEAST
    assert runs == 0


@pytest.mark.parametrize(("agreements", "expected"), [
    ([0.5] * 8, True),
    ([0.95] * 8, False),
    ([0.5, 0.95] * 16, True),
    ([0.5, 0.95] * 4, False),
    ([0.5, *[0.93] * 7], False),
    ([0.5] * 3, False),
    ([*[float("nan")] * 6, 0.1, 0.1], False),
    ([*[float("nan")] * 6, *[0.5] * 6], True),
    ([float("nan")] * 8, False),
])  # fmt: skip
def test_hopeless_where_more_samples_cannot_save_it(agreements: Sequence[float], expected: bool) -> None:
    """The mean is four standard errors below the minimum; a few samples, or none with a meaning, show nothing."""
    assert is_hopeless(agreements, LEAST) is expected


@pytest.mark.parametrize(("errors", "seen"), [([0.4, 0.45] * 16, PORTION), ([0.0, 0.3] * 16, 32), ([0.01] * 32, 32)])
def test_a_simulation_ends_where_it_is_hopeless(errors: list[float], seen: int) -> None:
    """A fidelity that is far too low shows on the first portion; else all samples are run, and the result is theirs."""
    read = 0

    def reading() -> Iterator[dict[str, Any]]:
        nonlocal read
        for prediction in predictions(errors):
            read += 1
            yield prediction

    fidelity = check_session(check(len(errors)), Session([0.0] * CALIBRATED), reading())
    assert read == seen
    assert fidelity.evaluation == pytest.approx(1 - np.mean(errors[:seen]))
