"""The gate looks at the calibration images too, and asks for a margin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphs import network, normal
from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.measure.evaluation import Evaluation
from sandglass.search.fidelity_check import MARGIN, PORTION, Gate, Kept, hopeless

LEAST = 0.9
CALIBRATED = 6
TEXT = "g (float[1, 3, 4, 4] image) => (float[N, C, H, W] y) { y = Conv(image, w) }"


class Task:
    """A prediction is a sum of outputs; fidelity what two of them differ by, off 1."""

    FIDELITY = ("near",)

    def decode(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Any], card: Any) -> list[dict[str, Any]]:
        """One number for each input."""
        return [{"image_id": meta, "sum": float(outputs["y"].sum())} for meta in metas]

    def agreement(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
        """1 for equal predictions."""
        return {"near": 1 - abs(before["sum"] - after["sum"])}


class Session:
    """The network, with an error for each input of the calibration set in turn."""

    def __init__(self, session: Any, errors: Sequence[float]) -> None:
        self.session, self.errors, self.runs = session, list(errors), 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs whose sum is off by what the input's first value says."""
        self.runs += 1
        outputs = self.session.run(inputs)
        return {"y": outputs["y"] + self.errors[int(inputs["image"].flat[0])] / outputs["y"].size}


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """For a small network, four evaluation images of which two samples each are known, and six calibration images."""
    task = Task()
    save_graph(network(TEXT, {"w": normal(1, 2, 3, 1, 1)}), tmp_path / "small.onnx")
    batches = [{"image": normal(i, 1, 3, 4, 4)} for i in range(CALIBRATED)]
    for i, batch in enumerate(batches):
        batch["image"].flat[0] = i
    bench: Any = SimpleNamespace(
        task=task, macs={"conv": 96}, looks=list(zip(batches, range(CALIBRATED), strict=True)),
        source=SimpleNamespace(graph=tmp_path / "small.onnx"),
        decoded=lambda outputs, meta: task.decode(outputs, [meta], None)[0],
    )  # fmt: skip
    monkeypatch.setattr("sandglass.measure.evaluation.discover.load", lambda kind, name: task)
    return Gate(bench, evaluated([0.0] * 8), LEAST)


def evaluated(errors: Sequence[float], session: Session | None = None) -> Evaluation:
    """An evaluation whose predictions are off by these."""
    card = SimpleNamespace(task="stub", decode={})
    artifact: Any = SimpleNamespace(card=card, isolated=lambda **given: nullcontext(session))
    predictions = [{"image_id": i // 2, "sum": error} for i, error in enumerate(errors)]
    return Evaluation(artifact, None, {}, {}, {}, predictions, 0.0, 0)


def kept(gate: Gate, evaluation: Sequence[float], calibration: Sequence[float]) -> tuple[Kept, int]:
    """What is kept with these errors on both sets, and how many calibration inputs were run."""
    session = Session(GraphSession(gate.bench.source.graph, threads=1), calibration)
    return gate.built(evaluated(evaluation, session)), session.runs


def test_calibration_images_count_as_well(gate: Gate) -> None:
    """What is kept on the easy evaluation images is not on the others: the mean of all samples tells."""
    found, runs = kept(gate, [0.01] * 8, [0.3] * CALIBRATED)
    assert (found.value, runs) == (pytest.approx(0.99), CALIBRATED)
    assert found.together == pytest.approx(1 - (8 * 0.01 + CALIBRATED * 0.3) / (8 + CALIBRATED), abs=1e-5)
    assert found.least == found.sure < LEAST


def test_a_share_of_the_loss_is_kept_for_other_images(gate: Gate) -> None:
    """However much the images at hand agree, all of them have to keep more than is asked for."""
    for errors in ([0.04] * 8, [0.0] * 8, [0.0, 0.02] * 4):
        found, _ = kept(gate, errors, errors[:CALIBRATED])
        assert found.sure == pytest.approx(found.together - MARGIN * (1 - LEAST), abs=1e-5)
        assert found.least == found.sure


def test_no_other_image_is_asked_where_the_evaluation_set_says_no(gate: Gate) -> None:
    """Its fidelity alone is what is kept then, and no calibration input is run."""
    assert kept(gate, [0.2] * 8, [0.0] * CALIBRATED) == (Kept(*[pytest.approx(0.8)] * 3), 0)


def test_the_lower_of_what_was_seen_and_what_is_sure_counts(gate: Gate) -> None:
    """An evaluation set that is easier than the calibration images does not help, nor a harder one hurt twice."""
    found, _ = kept(gate, [0.095] * 8, [0.0] * CALIBRATED)
    together = (8 * 0.905 + CALIBRATED) / (8 + CALIBRATED)
    assert found.value == pytest.approx(0.905)
    assert found.least == found.sure == pytest.approx(together - MARGIN * (1 - LEAST))
    assert replace(found, sure=0.91).least == found.value


def test_fidelity_that_has_no_meaning_does_not_pass(gate: Gate) -> None:
    """Where no sample of the evaluation set has any, nothing was kept."""
    found, runs = kept(gate, [float("nan")] * 8, [0.0] * CALIBRATED)
    assert not found.least >= LEAST
    assert runs == 0


@pytest.mark.parametrize(("agreed", "expected"), [
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
def test_a_choice_is_given_up_where_more_samples_cannot_save_it(agreed: Sequence[float], expected: bool) -> None:
    """The mean is four standard errors below what is asked for; a few samples, or none with a meaning, tell nothing."""
    assert hopeless(agreed, LEAST) is expected


@pytest.mark.parametrize(("errors", "seen"), [([0.4, 0.45] * 16, PORTION), ([0.0, 0.3] * 16, 32), ([0.01] * 32, 32)])
def test_a_simulation_ends_where_it_is_given_up(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, errors: list[float], seen: int
) -> None:
    """What is far too little is told from the first portion; else all samples are run, and what is kept is theirs."""
    given: list[int] = []

    def infer(*more: Any, **options: Any) -> Iterator[dict[int, dict[str, Any]]]:
        for start in range(0, len(errors), 4):
            given.extend(range(start, start + 4))
            yield {i: {"image_id": i, "sum": errors[i]} for i in range(start, start + 4)}

    base = evaluated([0.0] * len(errors))
    whole = Gate(gate.bench, base, LEAST)
    exact = Session(GraphSession(gate.bench.source.graph, threads=1), [0.0] * CALIBRATED)
    monkeypatch.setattr("sandglass.search.fidelity_check.infer", infer)
    monkeypatch.setattr("sandglass.quantization.simulate.simulate", lambda *given, **options: exact)
    gate.bench.spec, whole.bench.task.samples = None, lambda dataset: list(range(len(errors)))  # type: ignore[attr-defined]
    found = whole.simulated(None)  # type: ignore[arg-type]
    assert len(given) == seen
    assert found.value == pytest.approx(1 - np.mean(errors[:seen]))
