"""That int8 artifacts run on integer kernels, and what is done where those overflow."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from conformance.test_backends import save_graph
from sandglass import host
from sandglass.backends import Source, onnxruntime, openvino
from sandglass.card import Card, Input
from sandglass.errors import BackendError, UnsupportedOperator
from sandglass.graph.execute import GraphSession
from sandglass.quantize.make import make_plan
from sandglass.quantize.plan import Plan


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
    """Four layers become QLinearConv and the sum QLinearAdd; only the layer that makes the output is a float Conv."""
    import onnxruntime as runtime

    onnxruntime.build(source, "int8", tmp_path, plan)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    runtime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert {kind: kinds.count(kind) for kind in ("QLinearConv", "QLinearAdd", "Conv", "Relu")} == {
        "QLinearConv": 4, "QLinearAdd": 1, "Conv": 1, "Relu": 0,
    }  # fmt: skip


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


def test_openvino_keeps_to_seven_bits_where_sums_saturate(
    source: Source, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built where sums saturate, weights have 7 bits and the artifact opens; one with 8 bits is refused there."""
    pytest.importorskip("openvino")
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    wide.mkdir()
    narrow.mkdir()
    monkeypatch.setattr(host, "sums_saturate", lambda: False)
    made_wide = openvino.build(source, "int8", wide, plan)
    monkeypatch.setattr(host, "sums_saturate", lambda: True)
    made_narrow = openvino.build(source, "int8", narrow, plan)
    assert (made_wide["weight_bits"], made_narrow["weight_bits"]) == (8, 7)
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 24)).astype(np.float32)
    assert openvino.open(narrow, made_narrow, 1).run({"image": image})["heatmaps"].shape == (1, 17, 16, 12)
    with pytest.raises(BackendError, match="8-bit weights"):
        openvino.open(wide, made_wide, 1)
    assert openvino.open(wide, {}, 1), "fp32 has no such limit"


def test_onnxruntime_asks_for_exact_sums_where_they_saturate(
    source: Source, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file serves every processor: the session asks for exact sums where they would saturate, and only there.

    With them the output is within a few percent of float on any processor.
    """
    onnxruntime.build(source, "int8", tmp_path, plan)
    monkeypatch.setattr(host, "sums_saturate", lambda: False)
    plain = onnxruntime.open(tmp_path, {}, 1).session.get_session_options()
    with pytest.raises(RuntimeError, match="x64quantprecision"):
        plain.get_session_config_entry("session.x64quantprecision")
    monkeypatch.setattr(host, "sums_saturate", lambda: True)
    exact = onnxruntime.open(tmp_path, {}, 1)
    assert exact.session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"
    image = {"image": np.random.default_rng(1).standard_normal((1, 3, 32, 24)).astype(np.float32)}
    expected = GraphSession(source.graph).run(image)["heatmaps"]
    error = np.linalg.norm(exact.run(image)["heatmaps"] - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 0.03


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
