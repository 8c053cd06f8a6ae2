"""The models that ship with weights are good enough that a broken quantizer shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from references import assert_metrics, reference
from sandglass import discover
from sandglass.card import ZOO, load_card, zoo
from sandglass.evaluation import evaluate
from sandglass.journal import Journal
from sandglass.pipeline import deploy


def shipped(name: str) -> bool:
    """Whether a zoo model's weights are in the package."""
    checkpoint = load_card(name).checkpoint
    return checkpoint is not None and (ZOO / checkpoint.file).is_file()


@pytest.mark.parametrize("name", [name for name in zoo() if shipped(name)])
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
