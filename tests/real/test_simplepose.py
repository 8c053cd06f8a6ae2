"""A trained model as users have them: brought up, deployed and measured on real people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from references import assert_metrics, reference

from conformance.test_plain_runtimes import plain
from sandglass.artifacts.artifact import Artifact
from sandglass.backends import Session
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.core.processor import ANY
from sandglass.core.resume import Journal
from sandglass.datasets import KeypointDataset, coco_keypoints
from sandglass.deployment import deploy
from sandglass.graph.io import load_graph, static_inputs, static_outputs
from sandglass.graph.session import GraphSession
from sandglass.measure.evaluation import evaluate
from sandglass.quantization.calibration import Calibration, calibration_arrays
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate
from sandglass.sources.bring_up import bring_up_file
from sandglass.sources.card import Card, Input
from sandglass.sources.prepare import prepared_source

pytestmark = pytest.mark.slow

NAME = "simplepose-nano"


def runtimes(precision: str) -> list[str]:
    """Backends for users' ONNX files that write a precision."""
    found = [(name, discover.load("backends", name)) for name in discover.names("backends")]
    graphs = [(n, backend) for n, backend in found if backend.PURPOSE == "deploy" and backend.CAPABILITIES.runs_graphs]
    return [n for n, backend in graphs if precision in backend.PRECISIONS]


@pytest.fixture(scope="module")
def card(real_data: Path) -> Card:
    """SimplePose's card."""
    graph = real_data / "data/pose/simplepose/simplepose-nano.onnx"
    normalization = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    return Card(NAME, "topdown-pose", Input((256, 192), *normalization), graph=graph)


@pytest.fixture(scope="module")
def people(real_data: Path) -> KeypointDataset:
    """The 86 annotated persons."""
    folder = real_data / "data/pose/coco-mini"
    return coco_keypoints.load(folder / "train2017", folder / "annotations/person_keypoints_train2017.json")


@pytest.fixture(scope="module")
def artifacts(card: Card, people: KeypointDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """SimplePose for every runtime that is here, fp32 and int8."""
    targets = []
    for precision in ("fp32", "int8"):
        for name in runtimes(precision):
            try:
                discover.load("backends", name).available()
            except BackendUnavailable:
                continue
            targets.append(f"{name}:{precision}")
    calibration = Calibration(people, size=24)
    outcomes = deploy(card, targets, tmp_path_factory.mktemp("simplepose"), calibration=calibration)
    assert [str(outcome.error) for outcome in outcomes if outcome.error] == []
    return {str(outcome.target): outcome.artifact for outcome in outcomes if outcome.artifact}


def test_old_file_becomes_a_clean_graph(card: Card, tmp_path: Path) -> None:
    """Opset 8 with weights among the inputs and a removed attribute comes up to opset 17 without BatchNorm."""
    assert card.graph is not None
    bring_up_file(card.graph, tmp_path / "graph.onnx", card.input.size)
    model = load_graph(tmp_path / "graph.onnx")
    assert model.opset_import[0].version == 17
    assert static_inputs(model) == {"data": (1, 3, 256, 192)}
    assert list(static_outputs(model).values()) == [(1, 17, 64, 48)]
    assert {node.op_type for node in model.graph.node} == {"Conv", "Clip", "Add", "Relu", "ConvTranspose"}


@pytest.mark.parametrize("name", runtimes("fp32"))
def test_float_reaches_mmposes_numbers(
    name: str, artifacts: dict[str, Artifact], people: KeypointDataset, tmp_path: Path
) -> None:
    """fp32 on every runtime gives mmpose's AP and AR to 0.0005."""
    if f"{name}:fp32" not in artifacts:
        pytest.skip(f"{name} is not installed")
    result = evaluate(artifacts[f"{name}:fp32"], people, journal=Journal({}, tmp_path))
    assert_metrics(NAME, result.metrics)


@pytest.mark.parametrize("name", runtimes("int8"))
def test_int8_keeps_most_of_it(
    name: str, artifacts: dict[str, Artifact], people: KeypointDataset, tmp_path: Path
) -> None:
    """int8 from the plan alone stays within 4 points of AP; a broken quantizer loses 10 and more."""
    if f"{name}:int8" not in artifacts:
        pytest.skip(f"{name} is not installed")
    result = evaluate(artifacts[f"{name}:int8"], people, journal=Journal({}, tmp_path))
    assert abs(result.metrics["AP"]["value"] - reference(NAME, "metrics")["AP"]) < 0.04


@pytest.mark.parametrize("name", runtimes("int8"))
def test_plain_runtime_reaches_the_same_numbers(
    name: str, card: Card, artifacts: dict[str, Artifact], people: KeypointDataset, tmp_path: Path
) -> None:
    """A script with the runtime alone, and its default options, gives the int8 artifact's AP to 0.0005."""
    if f"{name}:int8" not in artifacts:
        pytest.skip(f"{name} is not installed")
    artifact, task = artifacts[f"{name}:int8"], discover.load("tasks", card.task)
    measured = evaluate(artifact, people, journal=Journal({}, tmp_path)).metrics["AP"]["value"]
    samples = task.samples(people)
    inputs, metas = zip(*(task.prepare(people.read(s.image_id), s, card) for s in samples), strict=True)
    outputs = plain(name, artifact.folder, np.stack(inputs)[:, None], tmp_path).reshape(-1, 17, 64, 48)
    predictions = task.decode({"heatmaps": outputs}, metas, card)
    found = task.score(predictions, people, seed=0)["AP"]["value"]
    assert found == pytest.approx(measured, abs=0.0005)


@pytest.mark.parametrize("name", runtimes("int8"))
def test_simulation_computes_what_the_runtime_does(
    name: str, card: Card, artifacts: dict[str, Artifact], people: KeypointDataset
) -> None:
    """Every layer in int8: heatmaps are nearly the runtime's, but for what it adds in another order, in float."""
    if f"{name}:int8" not in artifacts:
        pytest.skip(f"{name} is not installed")
    artifact, spec = artifacts[f"{name}:int8"], discover.load("backends", name).SPEC.on(ANY)
    plan = Plan.load(artifact.folder.parent / f"{name}-int8.plan.json")
    inputs = [{"data": array} for array in calibration_arrays(card, Calibration(people, size=24))]
    session = artifact.open()
    with prepared_source(card, None) as source:
        runners = (simulate(source.graph, plan, spec), GraphSession(source.graph))
        alike = [[correlated(runner, session, given) for given in inputs] for runner in runners]
    assert np.mean(alike[0]) > 0.998
    assert np.mean(alike[0]) > np.mean(alike[1])


def correlated(one: GraphSession, other: Session, inputs: dict[str, np.ndarray]) -> float:
    """Correlation of two sessions' heatmaps."""
    (first,), (second,) = one.run(inputs).values(), other.run(inputs).values()
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
