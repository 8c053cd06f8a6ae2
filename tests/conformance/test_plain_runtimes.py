"""What an int8 artifact's folder holds gives the same result in its plain runtime, on any processor.

Each script is what somebody writes who ships the files: it imports the runtime, not sandglass, and sets no option.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graphs import network

from conformance.test_backends import NAMES
from sandglass.cli.conformance.networks import small_card
from sandglass.core import discover, host
from sandglass.core.errors import BackendError, BackendUnavailable
from sandglass.core.processor import find_processor
from sandglass.deployment import deploy
from sandglass.graph.io import save_graph as save_model
from sandglass.graph.session import GraphSession
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.make_plan import make_plan
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

INTEGER = [name for name in NAMES if "int8" in discover.load("backends", name).PRECISIONS]
SCRIPTS = {
    "onnxruntime": """
import onnxruntime
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
outputs = [session.run(None, {session.get_inputs()[0].name: image})[0] for image in images]
""",
    "openvino": """
import openvino
model = openvino.Core().compile_model(f"{folder}/model.xml", "CPU")
outputs = [model(image)[0].copy() for image in images]
""",
    "ncnn": """
import ncnn
net = ncnn.Net()
net.load_param(f"{folder}/model.param")
net.load_model(f"{folder}/model.bin")
outputs = []
for image in images:
    extractor, pixels = net.create_extractor(), np.ascontiguousarray(image[0])
    extractor.input("in0", ncnn.Mat(pixels).clone())
    outputs.append(np.array(extractor.extract("out0")[1])[None])
""",
}
FRAME = """
import sys
import numpy as np
folder, images, out = sys.argv[1], np.load(sys.argv[2]), sys.argv[3]
{script}
assert not any(name.startswith("sandglass") for name in sys.modules)
np.save(out, np.stack(outputs))
"""


def usable(name: str) -> None:
    """Skip where a runtime is not installed."""
    try:
        discover.load("backends", name).available()
    except BackendUnavailable as error:
        pytest.skip(str(error))


def plain(name: str, files: Path, images: np.ndarray, scratch: Path) -> np.ndarray:
    """The first output for each of `images` (images, 1, channels, height, width), by a script without sandglass.

    The backend `name` has written `files`.
    """
    np.save(scratch / "images.npy", images)
    script = FRAME.replace("{script}", SCRIPTS[name])
    given = [str(files), str(scratch / "images.npy"), str(scratch / "outputs.npy")]
    subprocess.run([sys.executable, "-c", script, *given], check=True, timeout=120, cwd=scratch)
    return np.load(scratch / "outputs.npy")


def test_every_runtime_with_int8_has_a_plain_script() -> None:
    """A new backend with int8 says here how its files are run without sandglass."""
    assert set(INTEGER) == set(SCRIPTS)


@pytest.mark.parametrize("name", INTEGER)
def test_plain_runtime_computes_what_was_checked(name: str, tmp_path: Path) -> None:
    """With the runtime's default options outputs are those that the artifact's session gives, and measures."""
    usable(name)
    card = small_card(tmp_path)
    people = Calibration(discover.load("datasets", "synthetic-people").load(limit=6, split="train"), size=8)
    (outcome,) = deploy(card, [f"{name}:int8"], tmp_path / "out", calibration=people, quick=True)
    assert outcome.artifact is not None, outcome.error
    images = np.random.default_rng(1).standard_normal((4, 1, 3, 32, 24)).astype(np.float32)
    session = outcome.artifact.open(1)
    expected = np.stack([session.run({"image": image})["heatmaps"] for image in images])
    found = plain(name, outcome.artifact.folder, images, tmp_path)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", INTEGER)
def test_sums_of_the_largest_values_do_not_saturate(name: str, tmp_path: Path) -> None:
    """Layers of every kind whose products are all as large as they can be are right within rounding."""
    usable(name)
    text = """g (float[1, 16, 12, 12] x) => (float[1, 16, 12, 12] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, dense) p = Conv(a, point) d = Conv<group = 16, pads = [1, 1, 1, 1]>(p, depth)
        g2 = Conv<group = 2>(d, grouped) y = Conv(g2, point) }"""
    shapes = {"dense": (16, 16, 3, 3), "point": (16, 16, 1, 1), "depth": (16, 1, 3, 3), "grouped": (16, 8, 1, 1)}
    model = network(text, {key: np.full(shape, 1 / np.prod(shape[1:])) for key, shape in shapes.items()})
    save_model(model, tmp_path / "g.onnx")
    images = np.random.default_rng(2).uniform(0.95, 1, (4, 1, 16, 12, 12)).astype(np.float32)
    plan = make_plan(tmp_path / "g.onnx", [{"x": image} for image in images], "minmax")
    card = Card("large", "topdown-pose", Input((12, 12), (0, 0, 0), (1, 1, 1)), graph=tmp_path / "g.onnx")
    files = tmp_path / "files"
    files.mkdir()
    discover.load("backends", name).build(Source(card, tmp_path / "g.onnx"), "int8", files, plan)
    expected = np.stack([GraphSession(tmp_path / "g.onnx").run({"x": image})["y"] for image in images])
    found = plain(name, files, images, tmp_path).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("name", INTEGER)
def test_artifact_for_a_named_processor_is_refused_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made for VNNI says so; it opens where sums are exact, and only there where they would saturate."""
    usable(name)
    card = small_card(tmp_path)
    people = Calibration(discover.load("datasets", "synthetic-people").load(limit=3, split="train"), size=3)
    vnni = find_processor("vnni")
    (outcome,) = deploy(card, [f"{name}:int8"], tmp_path / "out", calibration=people, processor=vnni, quick=True)
    assert outcome.artifact is not None, outcome.error
    made_for = outcome.artifact.manifest.processor
    assert made_for == discover.load("backends", name).SPEC.exact_on(vnni).name
    monkeypatch.setattr(host, "sums_saturate", lambda: False)
    assert outcome.artifact.open(1)
    monkeypatch.setattr(host, "sums_saturate", lambda: True)
    if made_for == "any":
        assert outcome.artifact.open(1)
    else:
        with pytest.raises(BackendError, match="was made for x86-vnni"):
            outcome.artifact.open(1)
