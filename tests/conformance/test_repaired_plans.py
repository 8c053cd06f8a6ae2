"""Artifacts of every runtime with int8, built from a repaired plan, compute what the simulation says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from conformance.test_backends import PRECISIONS
from sandglass.backends import load_backend
from sandglass.cli.conformance.networks import small_card
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.core.processor import ANY
from sandglass.deployment import deploy
from sandglass.graph.io import load_graph
from sandglass.graph.layers import facts, find_layers
from sandglass.graph.session import GraphSession
from sandglass.quantization import repaired_plan
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.make_plan import make_plan
from sandglass.quantization.output_noise import noise, without
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import decide
from sandglass.sources.card import Card
from sandglass.sources.source import Source

INTEGER = [name for name, precision in PRECISIONS if precision == "int8"]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """A card over the small graph."""
    return small_card(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """A few synthetic people."""
    return Calibration(discover.load("datasets", "synthetic-people").load(limit=6, split="train"), size=4)


def images(count: int, seed: int) -> list[np.ndarray]:
    """Inputs of the graph."""
    random = np.random.default_rng(seed)
    return [random.standard_normal((1, 3, 32, 24)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("kept", ["none", "some"])
@pytest.mark.parametrize("name", INTEGER)
def test_artifact_agrees_with_the_simulation(
    name: str, kept: str, card: Card, calibration: Calibration, tmp_path: Path
) -> None:
    """Nearly the simulation's outputs, nearer than float's are, whether all layers are rounded or some given back."""
    backend = load_backend(name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    graph = brought_up(card, tmp_path)
    batches = [{"image": image} for image in images(8, 0)]
    plan, _ = repaired_plan.repaired_plan(graph, batches, backend.SPEC.on(ANY), tmp_path, "kl")
    if kept == "some":
        plan = without(plan, {"pointwise": "by hand"})
    plan.save(tmp_path / "plan.json")
    (outcome,) = deploy(card, [f"{name}:int8"], tmp_path / "out", calibration=calibration, plan=tmp_path / "plan.json")
    assert outcome.artifact is not None, outcome.error
    assert (
        outcome.artifact.manifest.plan_sha256
        == plan.sha256
        == Plan.load(tmp_path / "out" / f"{name}-int8.plan.json").sha256
    )
    decisions = outcome.artifact.files()[1].layers
    reasons = decide(plan, backend.SPEC.on(ANY), load_graph(graph))
    assert {layer: decision.reason for layer, decision in decisions.items()} == reasons
    session, simulated, exact = (
        outcome.artifact.open(1),
        simulate(graph, plan, backend.SPEC.on(ANY)),
        GraphSession(graph),
    )
    found, expected, floats = (
        [runner.run({"image": image}) for image in images(8, 100)] for runner in (session, simulated, exact)
    )
    for one, other in zip(found, expected, strict=True):
        assert np.corrcoef(one["heatmaps"].ravel(), other["heatmaps"].ravel())[0, 1] > 0.999
    assert noise(expected, found) < 0.5 * noise(floats, expected)
    runs = backend.layers(*outcome.artifact.files(), 1, {"image": images(1, 0)[0]})
    arithmetic = {run.name: run.arithmetic for run in runs if run.macs}
    assert arithmetic == {layer: "float" if why else "int8" for layer, why in reasons.items()}


@pytest.mark.parametrize("bits", [6, 7, 8])
@pytest.mark.parametrize("name", INTEGER)
def test_weights_have_the_bits_of_the_plan(name: str, bits: int, card: Card, tmp_path: Path) -> None:
    """As many as the plan says, or the most that the target's sums hold: what is simulated, and what it notes."""
    backend = load_backend(name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert backend.SPEC is not None
    graph, spec = brought_up(card, tmp_path), backend.SPEC.on(ANY)
    plan = make_plan(graph, [{"image": image} for image in images(4, 0)], "minmax")
    plan = replace(plan, layers={key: replace(layer, weight_bits=bits) for key, layer in plan.layers.items()})
    files, model = tmp_path / "files", load_graph(graph)
    files.mkdir()
    notes = backend.build(Source(card, graph), "int8", files, plan)
    steps = {run.name: run.steps for run in backend.layers(files, notes, 1, {"image": images(1, 0)[0]})}
    values = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    layers, known = find_layers(model), facts(model)
    assert notes.layers is not None
    built = {key: decision.weight_bits for key, decision in notes.layers.items() if decision.weight_bits}
    assert len(built) >= 3
    assert built == {key: spec.weight_bits(known[key], bits) for key in built}
    for key, count in built.items():
        largest = np.abs(values[layers[key].weight]).max(axis=(1, 2, 3))
        np.testing.assert_allclose(steps[key][1:], largest / (2 ** (count - 1) - 1), rtol=1e-5)


def brought_up(card: Card, folder: Path) -> Path:
    """The graph that `deploy` makes of the card's."""
    from sandglass.sources.bring_up import bring_up_file

    assert card.graph is not None
    bring_up_file(card.graph, folder / "graph.onnx", card.input.size)
    return folder / "graph.onnx"
