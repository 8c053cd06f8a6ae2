"""Graphs in half precision: right where it holds the values, and float32 where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten
from onnx import TensorProto, numpy_helper

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.parity import LEAST_CORRELATION
from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable, UnsupportedOperator
from sandglass.deployment import deploy
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.lowering.half_precision import float_layers, half_precision, wide_tensors
from sandglass.sources.card import Card, Input

PLAIN = """g (float[1, 3, 8, 8] image) => (float[1, 4, 16, 16] y, float[1, 4, 8, 8] r) {
    c = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
    r = Relu(c)
    s = Shape(r)
    f = Cast<to = 1>(s)
    m = ReduceMax<keepdims = 0>(f)
    p = Clip(r, low, m)
    z = ConstantOfShape<value = float[1] {2.0}>(s)
    t = Mul(p, z)
    u = Resize<mode = "linear">(t, none, scales)
    y = Conv(u, w2)
}"""
PLAIN_WEIGHTS = {
    "w1": normal(1, 4, 3, 3, 3), "b1": normal(2, 4), "w2": normal(3, 4, 4, 1, 1), "low": np.array(0.1),
    "none": np.zeros(0), "scales": np.array([1, 1, 2, 2]),
}  # fmt: skip
# The first layer's result is 1e5 times too large, and the last makes up for it.
LARGE = """g (float[1, 3, 16, 12] image) => (float[1, 4, 16, 12] y) {
    a = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
    b = Relu(a)
    c = Conv(b, w2)
    d = Relu(c)
    y = Conv<pads = [1, 1, 1, 1]>(d, w3)
}"""
LARGE_WEIGHTS = {
    "w1": normal(1, 8, 3, 3, 3) * 5e4, "b1": normal(2, 8) * 1e4, "w2": normal(3, 8, 8, 1, 1) / 1e5,
    "w3": normal(4, 4, 8, 3, 3),
}  # fmt: skip


def feeds(*shape: int) -> list[dict[str, np.ndarray]]:
    """Two images."""
    return [{"image": normal(seed, *shape)} for seed in (10, 11)]


def saved(text: str, weights: dict[str, np.ndarray], folder: Path) -> Path:
    """The graph as a file."""
    save_graph(network(text, weights), folder / "graph.onnx")
    return folder / "graph.onnx"


def halved(graph: Path, wide: set[str]) -> onnx.ModelProto:
    """The graph in half precision, checked."""
    model = rewritten(half_precision, load_graph(graph), wide)
    onnx.checker.check_model(model, full_check=True)
    return model


def results(model: onnx.ModelProto, folder: Path, images: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """What the nodes compute as they are written."""
    save_graph(model, folder / "changed.onnx")
    session = GraphSession(folder / "changed.onnx", optimize=False)
    return [session.run(image) for image in images]


def test_a_graph_computes_in_half_precision_and_speaks_float32(tmp_path: Path) -> None:
    """Weights and results are float16, inputs, outputs and what ONNX wants as float32 stay, and so does the result."""
    graph, images = saved(PLAIN, PLAIN_WEIGHTS, tmp_path), feeds(1, 3, 8, 8)
    wide = wide_tensors(graph, images)
    assert wide == set()
    model = halved(graph, wide)
    kinds = {entry.name: entry.data_type for entry in model.graph.initializer}
    assert kinds["scales"] == TensorProto.FLOAT
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT} == {"scales"}
    assert [value.type.tensor_type.elem_type for value in model.graph.output] == [TensorProto.FLOAT] * 2
    types = {value.name: value.type.tensor_type.elem_type
             for value in onnx.shape_inference.infer_shapes(model).graph.value_info}  # fmt: skip
    assert {types[name] for name in ("c.half", "f.half", "p.half", "z.half", "u.half")} == {TensorProto.FLOAT16}
    for image, found in zip(images, results(model, tmp_path, images), strict=True):
        for name, expected in GraphSession(graph).run(image).items():
            assert found[name].dtype == np.float32
            assert 0 < np.abs(found[name] - expected).max() < 4e-3 * np.abs(expected).max()


def test_what_does_not_fit_stays_in_float32(tmp_path: Path) -> None:
    """Too large a result is found and kept with the nodes that make and read it; without that it is infinite."""
    graph, images = saved(LARGE, LARGE_WEIGHTS, tmp_path), feeds(1, 3, 16, 12)
    wide = wide_tensors(graph, images)
    assert {"a", "b"} <= wide <= {"a", "b", "w1"}
    assert float_layers(load_graph(graph), wide) == ["a", "b", "c"]
    model = halved(graph, wide)
    kinds = {entry.name: entry.data_type for entry in model.graph.initializer}
    assert kinds == {"w1": TensorProto.FLOAT, "b1": TensorProto.FLOAT, "w2": TensorProto.FLOAT,
                     "w3.half": TensorProto.FLOAT16}  # fmt: skip
    for image, found in zip(images, results(model, tmp_path, images), strict=True):
        expected = GraphSession(graph).run(image)["y"]
        np.testing.assert_allclose(found["y"], expected, atol=4e-3 * float(np.abs(expected).max()))
    with np.errstate(over="ignore"):  # the weights of the first layer
        (broken, _) = results(halved(graph, set()), tmp_path, images)
    assert not np.isfinite(broken["y"]).all()


def test_weights_beyond_the_range_stay_in_float32(tmp_path: Path) -> None:
    """A weight that half precision makes infinite, whatever it is multiplied with."""
    weights = {**LARGE_WEIGHTS, "w1": np.full((8, 3, 3, 3), 1e5), "b1": np.zeros(8)}
    graph = saved(LARGE, weights, tmp_path)
    assert wide_tensors(graph, [{"image": np.zeros((1, 3, 16, 12), np.float32)}]) == {"w1"}


def test_output_that_others_read_keeps_its_name(tmp_path: Path) -> None:
    """An output in the middle, and one that a node in float32 makes."""
    text = "g (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] a, float[1, 3, 8, 8] y) { a = Relu(image) y = Neg(a) }"
    graph, images = saved(text, {}, tmp_path), feeds(1, 3, 8, 8)
    for wide in (set(), {"a"}, {"y"}, {"image"}):
        for image, found in zip(images, results(halved(graph, wide), tmp_path, images), strict=True):
            np.testing.assert_allclose(found["a"], np.maximum(image["image"], 0), rtol=1e-3)
            np.testing.assert_array_equal(found["y"], -found["a"] if wide != {"y"} else found["y"])


def test_branches_are_refused(tmp_path: Path) -> None:
    """A graph within a graph is named."""
    text = """g (float[1, 3, 8, 8] image, bool k) => (float[1, 3, 8, 8] y) {
        y = If(k) <then_branch = a () => (float[1, 3, 8, 8] o) { o = Relu(image) },
                   else_branch = b () => (float[1, 3, 8, 8] p) { p = Neg(image) }> }"""
    with pytest.raises(UnsupportedOperator, match="half precision of If"):
        half_precision(network(text, {}), set())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "ncnn"])
def test_overflowing_network_is_deployed_all_the_same(name: str, tmp_path: Path) -> None:
    """Layers that overflow are told, the artifact agrees, and its weights take half the space where they can."""
    backend, lines = discover.load("backends", name), []
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    graph = saved(LARGE, LARGE_WEIGHTS, tmp_path)
    card = Card("large", "topdown-pose", Input((16, 12), (0, 0, 0), (1, 1, 1)), graph=graph)
    (outcome,) = deploy(card, [f"{name}:fp16"], tmp_path / "out", say=lines.append)
    assert outcome.error is None
    manifest = load_artifact(tmp_path / "out" / f"{name}-fp16").manifest
    assert manifest.check.correlation > LEAST_CORRELATION["fp16"]
    assert len(manifest.backend_notes["float_layers"]) == 3
    assert sum("stays in float32" in line for line in lines) == 3


def test_weights_of_ncnn_take_half_the_space(tmp_path: Path) -> None:
    """Every layer's weights have ncnn's tag of half precision, except those beyond its range."""
    pytest.importorskip("ncnn")
    from sandglass.formats import ncnn_bin, ncnn_param

    weights = {**LARGE_WEIGHTS, "w1": normal(1, 8, 3, 3, 3), "w3": normal(4, 4, 8, 3, 3) * 1e5}
    graph = saved(LARGE, weights, tmp_path)
    card = Card("large", "topdown-pose", Input((16, 12), (0, 0, 0), (1, 1, 1)), graph=graph)
    (outcome,) = deploy(card, ["ncnn:fp16"], tmp_path / "out")
    assert outcome.error is None
    folder = tmp_path / "out/ncnn-fp16"
    param = ncnn_param.read_param(folder / "model.param")
    blobs = [blobs[0] for blobs in ncnn_bin.read_bin(param, folder / "model.bin") if blobs]
    tags = [int.from_bytes(blob[:4], "little") for blob in blobs]
    assert tags == [ncnn_bin.FLOAT16, ncnn_bin.FLOAT16, 0]
    found, expected = ncnn_bin.float_weights(blobs[0]), numpy_helper.to_array(load_graph(graph).graph.initializer[0])
    assert found is not None
    np.testing.assert_array_equal(found, expected.astype(np.float16).astype(np.float32).ravel())


@pytest.mark.slow
def test_weights_of_pytorch_take_half_the_space(tmp_path: Path) -> None:
    """A zoo model's weights are stored in half precision, and its outputs stay near those of float32."""
    pytest.importorskip("torch")
    fp32, fp16 = (outcome.artifact for outcome in deploy("hrnet-ae-tiny-synthetic", ["pytorch:fp32", "pytorch:fp16"],
                                                         tmp_path))  # fmt: skip
    assert fp32 is not None
    assert fp16 is not None
    assert fp16.size < 0.55 * fp32.size
    assert 1 > fp16.manifest.check.correlation > LEAST_CORRELATION["fp16"]
