"""An int8 artifact with hardly a layer in int8 says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandglass.cli.conformance.networks import save_graph, small_card
from sandglass.core import discover
from sandglass.deployment import deploy
from sandglass.graph.io import load_graph
from sandglass.graph.work import integer_share, layer_work
from sandglass.quantization.calibration import Calibration
from sandglass.sources.card import Card
from sandglass.table.rows import identity

TARGET = "onnxruntime:int8"


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """A card over the small graph."""
    return small_card(tmp_path)


@pytest.mark.parametrize("kept", ["none", "all", "all but the smallest"])
def test_share_is_in_the_manifest_and_the_table(kept: str, card: Card, tmp_path: Path) -> None:
    """The share of multiply-accumulates in int8 is recorded; under a tenth it is a warning, and part of the table."""
    calibration = Calibration(discover.load("datasets", "synthetic-people").load(limit=4, split="train"), size=2)
    deploy(card, [TARGET], tmp_path / "first", calibration=calibration, quick=True)
    plan = json.loads((tmp_path / "first" / f"{TARGET.replace(':', '-')}.plan.json").read_text(encoding="utf-8"))
    for name, layer in plan["layers"].items():
        layer["keep_float"] = kept == "all" or (kept == "all but the smallest" and name != "depthwise")
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    said: list[str] = []
    (outcome,) = deploy(
        card, [TARGET], tmp_path / "out", calibration=calibration, plan=tmp_path / "plan.json", say=said.append
    )
    assert outcome.artifact is not None, outcome.error
    share = outcome.artifact.manifest.check.int8_share
    if kept == "none":
        assert share == 1
        assert identity(outcome.artifact)["precision"] == "int8"
        assert not any("warning" in line for line in said)
    else:
        assert share < 0.1
        assert (share > 0) == (kept != "all")
        assert identity(outcome.artifact)["precision"] == f"int8 (only {share:.1%} of the work)"
        assert any(f"warning: only {share:.1%} of the multiply-accumulates in int8" in line for line in said)


def test_share_counts_multiply_accumulates(tmp_path: Path) -> None:
    """Layers count by their work, whatever their number."""
    model = load_graph(save_graph(tmp_path / "small.onnx"))
    work = {name: macs for name, (macs, _) in layer_work(model).items()}
    assert integer_share(model, {"three"}) == pytest.approx(work["three"] / sum(work.values()))
    assert integer_share(model, set()) == 0
