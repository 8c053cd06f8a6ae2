"""Filters that are zero or nearly so beside a bias: their integers fit, whatever the target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import network, normal, rewritten
from onnx import numpy_helper

from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization import repaired_plan
from sandglass.quantization.qdq import LARGEST_BIAS, least_scales, quantize_dequantize
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

TEXT = """g (float[1, 3, 12, 12] x) => (float[1, 5, 12, 12] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(c)
    d = Conv<pads = [1, 1, 1, 1]>(r, v, e) s = Relu(d) y = Conv(s, u) }"""
SIZES = (0.0, 1e-40, 1e-20, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3)


def pruned(path: Path, size: float, bias: float) -> Path:
    """A network in which half of the first layer's filters have a `size`, next to a bias that is not small."""
    weight, offset = normal(1, 12, 3, 3, 3) / 5, normal(2, 12) / 10
    weight[6:] *= np.float32(size)
    offset[6:] = bias
    values = {
        "w": weight,
        "b": offset,
        "v": normal(3, 12, 12, 3, 3) / 10,
        "e": normal(4, 12),
        "u": normal(5, 5, 12, 1, 1),
    }
    return save_graph(network(TEXT, values), path) or path


def images(count: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the network."""
    return [{"x": normal(100 + seed, 1, 3, 12, 12)} for seed in range(count)]


@pytest.mark.parametrize("repaired", [False, True], ids=["plain", "repaired"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("between", [False, True], ids=["alone", "between"])
def test_simulated_integers_stay_close(size: float, repaired: bool, between: bool, tmp_path: Path) -> None:
    """No bias is clipped and no scale is infinite, in every kind of integer arithmetic."""
    graph = pruned(tmp_path / "g.onnx", size, 1.5)
    spec = Spec(("Conv",), asymmetric=True, between=("Relu",)) if between else Spec(("Conv",), asymmetric=False)
    repairs = repair_names() if repaired else ()
    plan, _ = repaired_plan.repaired_plan(graph, images(3), spec, tmp_path, "minmax", repairs)
    session = simulate(graph, plan, spec)
    for feed in images(2):
        expected, found = (runner.run(feed)["y"].ravel() for runner in (GraphSession(graph), session))
        assert np.corrcoef(expected, found)[0, 1] > 0.995


@pytest.mark.parametrize("size", [1e-40, 1e-9])
@pytest.mark.parametrize("name", [n for n in discover.names("backends") if discover.load("backends", n).SPEC])
def test_artifact_stays_close(name: str, size: float, tmp_path: Path) -> None:
    """Each runtime adds the bias as its artifact says."""
    backend = discover.load("backends", name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    graph = pruned(tmp_path / "g.onnx", size, 1.5)
    plan, _ = repaired_plan.repaired_plan(graph, images(3), backend.SPEC, tmp_path, "minmax", ())
    card = Card("pruned", "topdown-pose", Input((12, 12), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), graph=graph)
    (tmp_path / "out").mkdir()
    notes = backend.build(Source(card, graph), "int8", tmp_path / "out", plan)
    session = backend.open(tmp_path / "out", notes, 1)
    for feed in images(2):
        expected, found = (runner.run(feed)["y"].ravel() for runner in (GraphSession(graph), session))
        assert np.corrcoef(expected, found)[0, 1] > 0.995


@pytest.mark.parametrize("bias", [1e-6, 1.0, 1e6])
def test_integer_biases_say_what_the_bias_is(bias: float, tmp_path: Path) -> None:
    """Integers times their step are the bias, and leave half of the range to the products."""
    graph = pruned(tmp_path / "g.onnx", 0.0, bias)
    spec = Spec(("Conv",), asymmetric=True, between=("Relu",))
    plan, _ = repaired_plan.repaired_plan(graph, images(3), spec, tmp_path, "minmax", ())
    model = rewritten(quantize_dequantize, load_graph(graph), plan, spec)
    values = {entry.name: numpy_helper.to_array(entry).astype(np.float64) for entry in model.graph.initializer}
    integers = values["c.bias.q"]
    assert np.abs(integers).max() <= LARGEST_BIAS + 64
    np.testing.assert_allclose((integers * values["c.bias.scale"])[6:], bias, rtol=1e-3)


def test_scale_that_a_bias_needs_is_that_of_its_channel() -> None:
    """The largest of the biases that share a scale counts; a single number is the bias of all channels."""
    least = least_scales(np.array([1.0, -8.0, 4.0, 2.0]), np.float32(0.5), 2)
    np.testing.assert_allclose(least, np.array([4.0, 8.0]) / LARGEST_BIAS / 0.5, rtol=1e-6)
    np.testing.assert_allclose(least_scales(np.array(3.0), np.float32(1), 4), np.full(4, 3 / LARGEST_BIAS), rtol=1e-6)
