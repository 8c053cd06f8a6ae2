"""The embedded model is good enough that a broken quantizer shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandglass.card import ZOO
from sandglass.datasets import synthetic_people
from sandglass.evaluation import evaluate
from sandglass.journal import Journal
from sandglass.pipeline import deploy


def test_embedded_model_reaches_its_level_on_unseen_figures(tmp_path: Path) -> None:
    """AP on the whole test split is 0.830 within a point, from a checkpoint under 3 MB."""
    pytest.importorskip("torch")
    assert (ZOO / "hourglass-tiny-synthetic.safetensors").stat().st_size < 3e6
    (outcome,) = deploy("hourglass-tiny-synthetic", ["onnxruntime:fp32"], tmp_path / "out")
    assert outcome.artifact is not None
    result = evaluate(outcome.artifact, synthetic_people.load(), journal=Journal({}, tmp_path))
    assert result.metrics["AP"]["value"] == pytest.approx(0.830, abs=0.01)
