"""Trained classifiers as users have them: deployed from ONNX and from ncnn, and measured on real images."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references import assert_metrics, reference

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.manifest import write_manifest
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.core.resume import Journal
from sandglass.datasets import LabelledDataset, cifar10, imagenet
from sandglass.deployment import deploy
from sandglass.measure.evaluation import Evaluation, evaluate
from sandglass.quantization.calibration import Calibration
from sandglass.sources.card import Card, Input

pytestmark = pytest.mark.slow

CAFFE = Input((227, 227), (104, 117, 123), (1, 1, 1), "bgr")
CARDS = {
    "resnet20-cifar10": ("cifar10/resnet20.onnx", Input((32, 32), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
                         {"classes": "cifar10"}),
    "efficientnet-lite0": ("imagenet-sample/efficientnet-lite0.onnx",
                           Input((224, 224), (127, 127, 127), (128, 128, 128)), {"short_side": 256}),
    "squeezenet-v1.1": ("imagenet-sample/squeezenet_v1.1.ncnn.param", CAFFE, {"probabilities": True}),
}  # fmt: skip


@dataclass
class Network:
    """A trained network, its data, and its artifacts, made when they are first asked for."""

    card: Card
    test: LabelledDataset
    train: LabelledDataset
    folder: Path

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """For every runtime that is here, fp32 and int8."""
        targets = []
        for name in discover.names("backends"):
            backend = discover.load("backends", name)
            try:
                usable = backend.PURPOSE == "deploy" and backend.CAPABILITIES.runs_graphs and bool(backend.available())
            except BackendUnavailable:
                continue
            targets += [f"{name}:{precision}" for precision in backend.PRECISIONS if usable]
        calibration = Calibration(self.train)
        outcomes = deploy(self.card, targets, self.folder / "artifacts", calibration=calibration, quick=True)
        assert [str(outcome.error) for outcome in outcomes if outcome.error] == []
        return {str(outcome.target): outcome.artifact for outcome in outcomes if outcome.artifact}

    def measure(self, artifact: Artifact) -> Evaluation:
        """On the test images, without the user's cache."""
        return evaluate(artifact, self.test, journal=Journal({"artifact": artifact.sha256}, self.folder))


@pytest.fixture(scope="module", params=CARDS)
def network(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Each network."""
    folder = real_data / "data/classification"
    graph, given, decode = CARDS[request.param]
    card = Card(request.param, "classification", given, graph=folder / graph, decode=decode)
    if "cifar10" in graph:
        test, train = (cifar10.load(folder / "cifar10" / name) for name in ("test_0-499.npz", "train_1000.npz"))
    else:
        test = imagenet.load(folder / "imagenet-sample/images", folder / "imagenet-sample/labels.txt")
        train = imagenet.load(real_data / "data/pose/coco-mini")  # photographs, and none of those that are scored
    return Network(card, test, train, tmp_path_factory.mktemp("network"))


def test_float_is_the_same_on_every_runtime(network: Network) -> None:
    """fp32 gives the recorded top-1 and top-5, and the same first class for every image, wherever it runs."""
    results = {target: network.measure(artifact) for target, artifact in network.artifacts.items() if "fp32" in target}
    first, *others = ([p["classes"][0] for p in result.predictions] for result in results.values())
    for result in results.values():
        assert_metrics(network.card.name, result.metrics)
    assert all(other == first for other in others)
    assert len(results) > 1


def test_int8_keeps_most_of_it(network: Network) -> None:
    """int8 from the plan alone loses at most the recorded points of top-1, and agrees on most images."""
    table = reference(network.card.name, "int8")
    base = network.measure(next(a for target, a in network.artifacts.items() if "fp32" in target))
    for target, artifact in network.artifacts.items():
        if "int8" in target:
            result = network.measure(artifact)
            pairs = zip(base.predictions, result.predictions, strict=True)
            same = np.mean([a["classes"][0] == b["classes"][0] for a, b in pairs])
            drop = 100 * (base.metrics["top-1"]["value"] - result.metrics["top-1"]["value"])
            assert drop <= table["most_points"], target
            assert same >= table["least_same"], target


def foreign(network: Network, stem: str, precision: str, folder: Path) -> Artifact:
    """An artifact around ncnn files that were made by ncnn's own tools."""
    source = network.card.graph
    assert source is not None
    folder.mkdir()
    for ending in ("param", "bin"):
        shutil.copy(source.with_name(f"{stem}.ncnn.{ending}"), folder / f"model.{ending}")
    fields: dict[str, Any] = {
        "card": network.card.to_dict(),
        "backend": "ncnn",
        "precision": precision,
        "inputs": {"data": [1, 3, 227, 227]},
        "graph_sha256": "",
        "check": {},
        "backend_notes": {"inputs": {"data": "data"}, "outputs": {"prob": ["prob", [1, 1000]]}},
    }
    write_manifest(folder, fields)
    return load_artifact(folder)


@pytest.mark.parametrize("network", ["squeezenet-v1.1"], indirect=True)
def test_int8_is_no_worse_than_the_cpp_tools(network: Network, tmp_path: Path) -> None:
    """SqueezeNet's int8 made here has at least the top-1 of the file that ncnn2table and ncnn2int8 made."""
    pytest.importorskip("ncnn")
    theirs = network.measure(foreign(network, "squeezenet_v1.1-int8", "int8", tmp_path / "int8"))
    ours = network.measure(network.artifacts["ncnn:int8"])
    assert ours.metrics["top-1"]["value"] >= theirs.metrics["top-1"]["value"]
    plain = network.measure(foreign(network, "squeezenet_v1.1", "fp32", tmp_path / "fp32"))
    assert_metrics(network.card.name, plain.metrics)
