"""The models that ship with weights are good enough that a broken quantizer shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from references import assert_metrics, reference

from sandglass.core import discover
from sandglass.core.resume import Journal
from sandglass.deployment import deploy
from sandglass.measure.evaluation import evaluate
from sandglass.sources.card import ZOO, zoo
from sandglass.sources.load_card import load_card


def shipped(name: str) -> bool:
    """Whether a zoo model's weights are in the package."""
    checkpoint = load_card(name).checkpoint
    return checkpoint is not None and (ZOO / checkpoint.file).is_file()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] if name.startswith("hrnet") else []
        )  # three times as long as others
        for name in zoo()
        if shipped(name)
    ],
)
def test_embedded_model_reaches_its_level_on_unseen_samples(name: str, tmp_path: Path) -> None:
    """Its metrics on the whole test split are those on record, from a checkpoint under 3 MB."""
    pytest.importorskip("torch")
    checkpoint = load_card(name).checkpoint
    assert checkpoint is not None
    assert (ZOO / checkpoint.file).stat().st_size < 3e6
    (outcome,) = deploy(name, ["onnxruntime:fp32"], tmp_path / "out")
    assert outcome.artifact is not None
    dataset = discover.load("datasets", reference(name, "metrics")["dataset"]).load()
    assert_metrics(name, evaluate(outcome.artifact, dataset, journal=Journal({}, tmp_path)).metrics)
