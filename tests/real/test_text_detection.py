"""Trained text detectors as users have them, an ONNX file and an ncnn model, on real pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from references import assert_metrics

from sandglass.artifacts.artifact import Artifact
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.core.resume import Journal
from sandglass.datasets import TextDataset, icdar2015
from sandglass.deployment import deploy
from sandglass.measure.evaluation import evaluate, fidelity
from sandglass.sources.card import Card, Input

pytestmark = pytest.mark.slow

FILES = {"pp-ocrv4-mobile-det": "ch_PP-OCRv4_det_infer.onnx", "pp-ocrv5-mobile-det": "PP_OCRv5_mobile_det.ncnn.param"}
# PaddleOCR's: BGR, the statistics of ImageNet in that order, sides that are multiples of 32.
PADDLE = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "bgr")
BACKENDS = [
    name
    for name in discover.names("backends")
    if discover.load("backends", name).PURPOSE == "deploy" and discover.load("backends", name).CAPABILITIES.runs_graphs
]


@pytest.fixture(scope="module")
def pages(real_data: Path) -> TextDataset:
    """The 50 pages."""
    folder = real_data / "data/text/icdar2015"
    return icdar2015.load(folder / "images", folder / "gt")


@pytest.fixture(scope="module", params=FILES)
def artifacts(
    request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    """A detector in float for every runtime that is here."""
    targets = []
    for name in BACKENDS:
        try:
            discover.load("backends", name).available()
        except BackendUnavailable:
            continue
        targets.append(f"{name}:fp32")
    graph = real_data / "data/text/weights" / FILES[request.param]
    card = Card(request.param, "text-detection", Input((736, 1312), *PADDLE), graph=graph, decode={"round_to": 32})
    outcomes = deploy(card, targets, tmp_path_factory.mktemp("text"))
    assert [str(outcome.error) for outcome in outcomes if outcome.error] == []
    return {outcome.target.backend: outcome.artifact for outcome in outcomes if outcome.artifact}


def test_pages_are_read_with_their_marks(pages: TextDataset) -> None:
    """550 texts, 358 of them ignored, every outline a sound one of four corners."""
    texts = [text for found in pages.texts.values() for text in found]
    assert len(texts) == 550
    assert sum(ignored for _, ignored in texts) == 358
    assert {len(points) for points, _ in texts} == {4}
    assert "polygons" not in pages.protocol


def test_float_reaches_the_numbers_on_record(
    artifacts: dict[str, Artifact], pages: TextDataset, tmp_path: Path
) -> None:
    """hmean, recall and precision on all pages, at the best threshold."""
    artifact = artifacts["onnxruntime"]
    assert_metrics(artifact.card.name, evaluate(artifact, pages, journal=Journal({}, tmp_path)).metrics)


def test_float_sees_the_same_on_every_backend(artifacts: dict[str, Artifact], real_data: Path, tmp_path: Path) -> None:
    """On six pages the outlines are those of any other runtime, but for a pixel of rounding here and there."""
    folder = real_data / "data/text/icdar2015"
    few = icdar2015.load(folder / "images", folder / "gt", limit=6)
    results = [evaluate(a, few, journal=Journal({}, tmp_path / name)) for name, a in artifacts.items()]
    assert len(results) > 1
    assert sum(len(prediction["texts"]) for prediction in results[0].predictions) > 10
    for result in results[1:]:
        assert fidelity(results[0], result.predictions)["IoU"]["value"] > 0.995
