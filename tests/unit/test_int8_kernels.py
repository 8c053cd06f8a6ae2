"""That int8 artifacts run on integer kernels, and what is done where those overflow."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from graphs import network, normal
from onnx import helper

from sandglass.backends import ncnn, onnxruntime, openvino
from sandglass.cli.conformance.networks import save_graph
from sandglass.core import host
from sandglass.core.compare import correlation
from sandglass.core.errors import UnsupportedOperator
from sandglass.core.processor import ANY
from sandglass.graph.io import save_graph as save_model
from sandglass.graph.session import GraphSession
from sandglass.quantization.make_plan import make_plan
from sandglass.quantization.output_noise import without
from sandglass.quantization.plan import Plan, TensorRange
from sandglass.quantization.repaired_plan import repaired, repaired_plan
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A small network."""
    path = save_graph(tmp_path_factory.mktemp("int8") / "small.onnx")
    return Source(Card("small", "topdown-pose", Input((32, 24), (0, 0, 0), (1, 1, 1)), graph=path), path)


@pytest.fixture(scope="module")
def plan(source: Source) -> Plan:
    """Its plan."""
    random = np.random.default_rng(0)
    samples = [{"image": random.standard_normal((1, 3, 32, 24)).astype(np.float32)} for _ in range(4)]
    return make_plan(source.graph, samples, "minmax")


def test_onnxruntime_fuses_every_int8_layer(source: Source, plan: Plan, tmp_path: Path) -> None:
    """Four layers become QLinearConv and the sum QLinearAdd; what makes the output is a product with sums in float."""
    import onnxruntime as runtime

    onnxruntime.build(source, "int8", tmp_path, plan)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    runtime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    expected = {"QLinearConv": 4, "QLinearAdd": 1, "MatMulIntegerToFloat": 1, "Conv": 0, "MatMul": 0, "Relu": 0}
    assert {kind: kinds.count(kind) for kind in expected} == expected
    assert kinds.count("QuantizeLinear") == 1  # of the image


def test_onnxruntime_leaves_in_float_what_the_plan_keeps(tmp_path: Path) -> None:
    """A layer in float between rounded ones has its float weights with the runtime's default options too."""
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
        a = Conv(x, w) b = Conv(a, v, c) r = Relu(b) y = Conv(r, w) }"""
    model = network(text, {"w": normal(0, 4, 4, 1, 1), "v": normal(1, 4, 4, 1, 1), "c": normal(2, 4)})
    save_model(model, tmp_path / "g.onnx")
    batches = [{"x": normal(3 + i, 1, 4, 8, 8)} for i in range(4)]
    plan = without(make_plan(tmp_path / "g.onnx", batches, "minmax"), {"b": "by hand"})
    card = Card("chain", "topdown-pose", Input((8, 8), (0, 0, 0), (1, 1, 1)), graph=tmp_path / "g.onnx")
    notes = onnxruntime.build(Source(card, tmp_path / "g.onnx"), "int8", tmp_path, plan)
    runs = onnxruntime.layers(tmp_path, notes, 1, batches[0])
    assert {run.name: run.arithmetic for run in runs if run.macs} == {"a": "int8", "b": "float", "y": "int8"}


def test_openvino_runs_every_layer_in_int8(source: Source, plan: Plan, tmp_path: Path) -> None:
    """All five convolutions of the compiled model compute on bytes."""
    pytest.importorskip("openvino")
    notes = openvino.build(source, "int8", tmp_path, plan)
    session = openvino.open(tmp_path, notes, 1)
    infos = [node.get_rt_info() for node in session.compiled.get_runtime_model().get_ordered_ops()]
    convolutions = [info["runtimePrecision"] for info in infos if info["layerType"] == "Convolution"]
    assert len(convolutions) == 5
    assert set(convolutions) <= {"u8", "i8"}


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ["avx2"], True),
        ("x86_64", ["avx2", "avx512f"], True),
        ("x86_64", [], True),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], False),
        ("AMD64", ["avx2", "avx_vnni"], False),
        ("aarch64", [], False),
    ],
)
def test_saturation_follows_from_the_processor(
    machine: str, flags: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums saturate on x86 without VNNI, and are taken to where the instruction sets are not known."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(host, "instruction_sets", lambda: flags)
    assert host.sums_saturate() is expected


def test_openvino_names_the_operator_it_lacks(tmp_path: Path, source: Source) -> None:
    """A custom operator raises UnsupportedOperator with its name, not the runtime's exception."""
    pytest.importorskip("openvino")
    value = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("Foo", ["x"], ["y"], "foo", domain="my")], "g",
                             [value("x", 1, [1, 3])], [value("y", 1, [1, 3])])  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    onnx.save(helper.make_model(body, opset_imports=opsets, ir_version=8), tmp_path / "foo.onnx")
    with pytest.raises(UnsupportedOperator, match=r"my\.Foo"):
        openvino.build(Source(source.card, tmp_path / "foo.onnx"), "fp32", tmp_path, None)


def test_ncnn_pads_with_what_zero_becomes(tmp_path: Path) -> None:
    """Results of ReLUs that padded layers read are centred: ncnn computes what is simulated, edges and all.

    The plan serves the other runtimes too.
    """
    pytest.importorskip("ncnn")
    pytest.importorskip("openvino")
    conv = "Conv<pads = [1, 1, 1, 1]>"
    text = f"""g (float[1, 3, 12, 8] image) => (float[1, 5, 12, 8] y) {{
        a = {conv}(image, w1, b1) r = Relu(a) b = {conv}(r, w2, b2) s = Add(r, b) q = Relu(s) c = {conv}(q, w3, b3)
        p = Relu(c) y = Conv(p, w4, b4) }}"""
    weights = {f"w{i}": normal(i, out, given, size, size) / np.float32(given * size)
               for i, (out, given, size) in enumerate([(16, 3, 3), (16, 16, 3), (8, 16, 3), (5, 8, 1)], 1)}  # fmt: skip
    biases = {f"b{i}": normal(10 + i, len(weights[f"w{i}"])) / 4 for i in range(1, 5)}
    save_model(network(text, weights | biases), tmp_path / "g.onnx")
    images = [{"image": normal(100 + i, 1, 3, 12, 8)} for i in range(8)]
    plan, _ = repaired_plan(tmp_path / "g.onnx", images, ncnn.SPEC.on(ANY), tmp_path, "minmax", repair_names())
    assert {"r", "q"} <= set(plan.offsets)
    card = Card("small", "topdown-pose", Input((12, 8), (0, 0, 0), (1, 1, 1)), graph=tmp_path / "g.onnx")
    exact = GraphSession(tmp_path / "g.onnx")
    for backend in (ncnn, onnxruntime, openvino):
        folder = tmp_path / backend.__name__
        folder.mkdir()
        save_model(repaired(tmp_path / "g.onnx", plan, backend.SPEC.on(ANY)), folder / "g.onnx")
        notes = backend.build(Source(card, folder / "g.onnx"), "int8", folder, plan)
        session, simulated = backend.open(folder, notes, 1), simulate(tmp_path / "g.onnx", plan, backend.SPEC.on(ANY))
        found, expected = (np.stack([one.run(given)["y"] for given in images]) for one in (session, simulated))
        assert correlation(expected, found) > 0.9999, backend.__name__
        assert correlation(np.stack([exact.run(given)["y"] for given in images]), found) > 0.999, backend.__name__
        assert any(decision.arithmetic == "int8" for decision in notes.layers.values()), backend.__name__


def assert_as_simulated(backend: ModuleType, graph: Path, plan: Plan, images: list[dict[str, np.ndarray]]) -> None:
    """An artifact with layers in int8, made beside the graph, computes of every image what is simulated, to the bit."""
    height, width = images[0]["image"].shape[2:]
    card = Card("small", "topdown-pose", Input((height, width), (0, 0, 0), (1, 1, 1)), graph=graph)
    notes = backend.build(Source(card, graph), "int8", graph.parent, plan)
    assert any(decision.arithmetic == "int8" for decision in notes.layers.values())
    session, simulated = backend.open(graph.parent, notes, 1), simulate(graph, plan, backend.SPEC.on(ANY))
    for given in images:
        np.testing.assert_array_equal(session.run(given)["y"], simulated.run(given)["y"])


@pytest.mark.skipif(host.sums_saturate(), reason="sums of 8-bit weights overflow on this processor")
@pytest.mark.parametrize("zero", [100, 127, 128])
def test_openvino_computes_what_is_simulated_to_the_bit(tmp_path: Path, zero: int) -> None:
    """Whoever rounds a tensor, the layer that makes it alone for others or a kernel of its own, and whatever 0 is.

    One bit less in what is multiplied or added moves a value in a hundred thousand over the edge between two integers.
    """
    pytest.importorskip("openvino")
    text = """g (float[1, 3, 128, 128] image) => (float[1, 4, 128, 128] y) {
        a = Conv(image, w1, b1) b = Conv(a, w2, b2) c = Conv(b, w3, b3) s = Add(b, c) y = Conv(s, w4, b4) }"""
    weights = {f"w{i}": normal(i, out, given, 1, 1) / np.float32(given)
               for i, (out, given) in enumerate([(16, 3), (16, 16), (16, 16), (4, 16)], 1)}  # fmt: skip
    biases = {f"b{i}": normal(10 + i, len(weights[f"w{i}"])) for i in range(1, 5)}
    save_model(network(text, weights | biases), tmp_path / "g.onnx")
    images = [{"image": normal(100 + i, 1, 3, 128, 128)} for i in range(8)]
    plan = make_plan(tmp_path / "g.onnx", images[:2], "minmax")
    steps = {name: plan.tensors[name].largest / 128 for name in "abs"}
    ranges = {name: TensorRange(-zero * step, (255 - zero) * step, 256 * step) for name, step in steps.items()}
    plan = replace(plan, tensors=plan.tensors | ranges)
    assert_as_simulated(openvino, tmp_path / "g.onnx", plan, images)


def test_ncnn_computes_what_is_simulated_to_the_bit(tmp_path: Path) -> None:
    """Its depthwise layers are in float: only sums in the same order round to the same integers in the next layer."""
    pytest.importorskip("ncnn")
    text = """g (float[1, 3, 128, 96] image) => (float[1, 4, 128, 96] y) {
        a = Conv<pads = [1, 1, 1, 1]>(image, w1, b1) ra = Relu(a)
        b = Conv<group = 16, strides = [2, 2], pads = [1, 1, 1, 1]>(ra, w2, b2) rb = Relu(b) c = Conv(rb, w3, b3)
        d = Conv<group = 16, pads = [2, 2, 2, 2]>(c, w4, b4) s = Add(c, d) e = Conv(s, w5, b5)
        f = ConvTranspose<group = 16, strides = [2, 2], pads = [1, 1, 1, 1]>(e, w6, b6) h = Conv(f, w7, b7)
        y = Conv(h, w8) }"""
    shapes = [(16, 3, 3), (16, 1, 3), (16, 16, 1), (16, 1, 5), (16, 16, 1), (16, 1, 4), (16, 16, 1), (4, 16, 1)]
    weights = {f"w{i}": normal(i, out, given, side, side) / np.float32((given * side) ** 0.5)
               for i, (out, given, side) in enumerate(shapes, 1)}  # fmt: skip
    biases = {f"b{i}": normal(10 + i, out) for i, (out, _, _) in enumerate(shapes, 1)}
    save_model(network(text, weights | biases), tmp_path / "g.onnx")
    images = [{"image": normal(100 + i, 1, 3, 128, 96)} for i in range(8)]
    plan = make_plan(tmp_path / "g.onnx", images[:2], "minmax")
    assert_as_simulated(ncnn, tmp_path / "g.onnx", plan, images)
