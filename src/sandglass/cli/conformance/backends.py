"""The contract of backends: small networks are built in each precision, opened, run and listed."""

from __future__ import annotations

import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.parity import Reference
from sandglass.artifacts.target import Target
from sandglass.backends import Backend, BuildNotes, load_backend
from sandglass.cli.conformance import members
from sandglass.cli.conformance.networks import small_card
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable, SandglassError
from sandglass.deployment import deploy
from sandglass.quantization.calibration import Calibration
from sandglass.sources.card import Card, Input

NAMES = members("backends")
PRECISIONS = [(name, precision) for name in NAMES
              for precision in load_backend(name).PRECISIONS]  # fmt: skip
CALLERS = 4  # threads whose first calls of a session begin together
SECONDS = 300  # a cold start takes one or two, and many times that on a busy machine; a deadlock never ends
# Opens a session in its own process, as users do. Bindings initialize shared data in their first call, in which two
# threads may deadlock.
COLD_START = """
import sys, threading
from pathlib import Path
from sandglass.artifacts.artifact import load_artifact
artifact = load_artifact(Path(sys.argv[1]))
callers = int(sys.argv[2])
session, inputs, barrier = artifact.open(threads=1, callers=callers), artifact.noise(), threading.Barrier(callers)
def call():
    barrier.wait(60)
    session.run(inputs)
    done.append(1)
done = []
threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(done))
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """A card of the small graph."""
    return small_card(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """A few synthetic people."""
    return Calibration(discover.load("datasets", "synthetic-people").load(limit=6, split="train"), size=8)


@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_artifact_runs_alone_and_agrees_with_the_graph(
    name: str, precision: str, card: Card, calibration: Calibration, tmp_path: Path
) -> None:
    """An artifact loads from its folder, computes a batch like single images, and agrees with the graph."""
    backend = load_backend(name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    (outcome,) = deploy(card, [f"{name}:{precision}"], tmp_path, calibration=calibration, quick=True)
    if not backend.CAPABILITIES.runs_graphs:
        assert isinstance(outcome.error, SandglassError), "an ONNX file has no module to run"
        assert not (tmp_path / f"{name}-{precision}").exists()
        return
    assert outcome.error is None
    artifact = load_artifact(tmp_path / f"{name}-{precision}")
    session = artifact.open(1)
    batch = np.random.default_rng(1).standard_normal((3, 3, 32, 24)).astype(np.float32)
    together = session.run({"image": batch})["heatmaps"]
    assert together.shape == (3, 17, 16, 12)
    assert together.dtype == np.float32
    alone = np.concatenate([session.run({"image": batch[i : i + 1]})["heatmaps"] for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-4 * max(1.0, float(np.abs(alone).max())))
    if backend.CAPABILITIES.computes:
        limit = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.99}[precision]
        correlation = artifact.manifest.check.correlation
        assert correlation is not None
        assert correlation > limit


@pytest.mark.parametrize("name", [name for name in NAMES if load_backend(name).CAPABILITIES.runs_graphs])
def test_session_serves_several_threads(name: str, card: Card, tmp_path: Path) -> None:
    """Calls from as many threads as the session has callers return the same as calls one after the other."""
    backend = load_backend(name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    (outcome,) = deploy(card, [f"{name}:{backend.PRECISIONS[0]}"], tmp_path)
    assert outcome.artifact is not None, outcome.error
    session = outcome.artifact.open(1, callers=3)
    images = np.random.default_rng(2).standard_normal((24, 1, 3, 32, 24)).astype(np.float32)
    expected = [session.run({"image": image})["heatmaps"] for image in images]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda image: session.run({"image": image})["heatmaps"], images))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_first_layer_may_work_in_place(name: str, tmp_path: Path) -> None:
    """A graph that begins with arithmetic on the image runs, and does not change the caller's image."""
    backend = load_backend(name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 32, 24] image) => (float[1, 3, 32, 24] y) {
        two = Constant<value = float {2.0}>() y = Mul(image, two) }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "small.onnx")
    card = Card("small", "topdown-pose", Input((32, 24), (0, 0, 0), (1, 1, 1)), graph=tmp_path / "small.onnx")
    (outcome,) = deploy(card, [f"{name}:{backend.PRECISIONS[0]}"], tmp_path / "out")
    if outcome.artifact is None:
        assert not backend.CAPABILITIES.runs_graphs
        return
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 24)).astype(np.float32)
    before = image.copy()
    found = outcome.artifact.open(1).run({"image": image})["y"]
    np.testing.assert_array_equal(image, before)
    if backend.CAPABILITIES.computes:
        np.testing.assert_allclose(found, 2 * image, rtol=1e-6)


def deployed(
    name: str, precision: str, card: Card, calibration: Calibration, folder: Path
) -> tuple[Backend[BuildNotes], Artifact]:
    """A backend with an artifact of the small graph, or of the embedded model if the backend takes no ONNX file."""
    backend = load_backend(name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    source = card if backend.CAPABILITIES.runs_graphs else "hourglass-tiny-synthetic"
    (outcome,) = deploy(source, [f"{name}:{precision}"], folder, calibration=calibration, quick=True)
    assert outcome.artifact is not None
    return backend, outcome.artifact


@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_layers_are_those_of_the_graph(
    name: str, precision: str, card: Card, calibration: Calibration, tmp_path: Path
) -> None:
    """Layers with weights have the names and the work of the graph's; a layer in float of an int8 artifact says why."""
    backend, artifact = deployed(name, precision, card, calibration, tmp_path)
    runs = backend.layers(*artifact.files(), 1, artifact.noise())
    assert all(run.milliseconds is None or run.milliseconds >= 0 for run in runs)
    assert {run.arithmetic for run in runs} <= {"int8", "float"}
    layers = {run.name: run for run in runs if run.macs}
    if backend.CAPABILITIES.computes and backend.CAPABILITIES.runs_graphs:
        places = {"first": 16 * 12, "depthwise": 8 * 6, "pointwise": 8 * 6, "three": 8 * 6, "last": 16 * 12}
        weights = {"first": 8 * 27, "depthwise": 8 * 9, "pointwise": 16 * 8, "three": 16 * 144, "last": 17 * 16}
        assert {key: run.macs for key, run in layers.items()} == {key: places[key] * weights[key] for key in places}
        assert layers["three"].terms == 144
    for layer in layers.values():
        if layer.arithmetic == "int8":
            assert precision == "int8"
            assert len(layer.steps) > 1
            assert min(layer.steps) > 0
        elif precision == "int8":
            assert layer.note
    if precision == "int8":
        integer = sum(run.macs for run in layers.values() if run.arithmetic == "int8")
        assert integer > 0.5 * sum(run.macs for run in layers.values())


@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_every_setting_opens_and_computes_nearly_the_same(
    name: str, precision: str, card: Card, calibration: Calibration, tmp_path: Path
) -> None:
    """The first value of a setting is the default, and every value gives nearly the same results for a batch."""
    backend, artifact = deployed(name, precision, card, calibration, tmp_path)
    inputs = artifact.noise(5)
    expected = artifact.open(2, {}).run(inputs)
    defaults = {setting: values[0] for setting, values in backend.SETTINGS.items()}
    for output, array in artifact.open(2, defaults).run(inputs).items():
        np.testing.assert_allclose(array, expected[output], atol=1e-4 * max(1.0, float(np.abs(array).max())))
    for setting, values in backend.SETTINGS.items():
        for value in values[1:]:
            for output, array in artifact.open(2, {setting: value}).run(inputs).items():
                agreement = np.corrcoef(array.ravel(), expected[output].ravel())[0, 1]
                assert agreement > 0.95, f"{setting} {value}: correlation {agreement:.4f}"


@pytest.mark.parametrize("name", NAMES)
def test_first_calls_return(name: str, card: Card, calibration: Calibration, tmp_path: Path) -> None:
    """The first calls of a session by several threads at once return, in two cold starts in new processes."""
    _, artifact = deployed(name, load_backend(name).PRECISIONS[0], card, calibration, tmp_path)
    for _ in range(2):
        cold_start(artifact.folder)


def cold_start(artifact: Path) -> None:
    """Open the artifact in a new process, and call its session by several threads at once."""
    command = [sys.executable, "-c", COLD_START, str(artifact), str(CALLERS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.stdout.strip() == str(CALLERS), ended.stderr


@pytest.mark.parametrize("name", NAMES)
def test_backend_says_what_it_is(name: str) -> None:
    """A backend has an install command, precisions and a purpose, and a spec if it writes int8."""
    backend = load_backend(name)
    assert backend.INSTALL
    assert backend.PURPOSE in ("deploy", "test")
    assert set(backend.PRECISIONS) <= {"fp32", "fp16", "int8"}
    assert ("int8" in backend.PRECISIONS) == (backend.SPEC is not None)
    assert Target.parse(name) == Target(name, backend.PRECISIONS[0])
    assert all(len(set(values)) == len(values) > 1 for values in backend.SETTINGS.values())


@pytest.mark.parametrize("name", [name for name in NAMES if load_backend(name).CAPABILITIES.make_kit])
def test_kit_stands_alone(name: str, card: Card, tmp_path: Path) -> None:
    """A build kit has a valid script, and code for Python 3.7 that imports only numpy and the vendor's package."""
    from sandglass.kit.build import build_kit
    from sandglass.sources.prepare import prepared_source

    backend = load_backend(name)
    with prepared_source(card, None) as source:
        ready = replace(source, soc=backend.CAPABILITIES.compiles_for_soc or "")
        target = Target(name, backend.PRECISIONS[0])
        made = build_kit(target, ready, Reference(ready, []), None, tmp_path / "kit", False, lambda line: None)
    assert made.kit is not None, made.error
    subprocess.run(["sh", "-n", "build.sh"], cwd=made.kit, check=True)
    vendors = set()
    for file in ("run.py", "runtime.py"):
        tree = ast.parse((made.kit / file).read_text(), feature_version=(3, 7))
        for node in ast.walk(tree):
            assert not isinstance(node, ast.NamedExpr)
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                vendors |= {entry.partition(".")[0] for entry in names}
    assert len(vendors - sys.stdlib_module_names - {"numpy", "runtime"}) == 1
    assert "have not run this kit on a real device" in (made.kit / "README.md").read_text()
