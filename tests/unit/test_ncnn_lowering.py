"""Graphs on ncnn whose attributes its converter loses, against ONNX Runtime, and how failures are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import normal
from onnx import TensorProto, helper, numpy_helper

from sandglass.backends import ncnn
from sandglass.backends._ncnn_lowering import lower
from sandglass.core.errors import BackendError, UnsupportedOperator
from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.sources.bring_up import convert, simplify
from sandglass.sources.source import Source

pytest.importorskip("ncnn")
SIZE = (9, 10)
GRID = np.random.default_rng(1).uniform(-9, 9, (1, 6, 7, 2)).astype(np.float32)


def one(operator: str, weights: dict[str, np.ndarray], opset: int = 17, **given: object) -> onnx.ModelProto:
    """A graph of one node over an image of five channels, brought up but for the number of channels."""
    node = helper.make_node(operator, ["x", *weights], ["y"], "node", **given)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, *SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return simplify(convert(model))


UNEVEN = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 1, 1, 0]}
FORMS: dict[str, onnx.ModelProto] = {
    "maximum": one("MaxPool", {}, **UNEVEN),
    "mean of the image": one("AveragePool", {}, **UNEVEN),
    "mean with the padding": one("AveragePool", {}, count_include_pad=1, **UNEVEN),
    "rounded up": one("MaxPool", {}, kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "transposed": one("ConvTranspose", {"w": normal(2, 5, 4, 3, 3)}, strides=[2, 2], auto_pad="SAME_UPPER"),
    "cubic": one("GridSample", {"g": GRID / 9}, 20, mode="cubic"),
    "nearest, mirrored": one("GridSample", {"g": GRID}, 20, mode="nearest", padding_mode="reflection"),
    "linear, mirrored": one("GridSample", {"g": GRID}, 20, padding_mode="reflection", align_corners=1),
    "some axes padded": one(
        "Pad", {"p": np.array([1, 2]), "v": np.array(0.5, np.float32), "a": np.array([3])}, 18, mode="constant"
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_the_converter_loses_is_written_in_another_way(name: str, tmp_path: Path) -> None:
    """Each form computes what ONNX Runtime computes, on an image of mostly negative values."""
    save_graph(FORMS[name], tmp_path / "graph.onnx")
    image = {"x": normal(0, 1, 5, *SIZE) - 2}
    expected = GraphSession(tmp_path / "graph.onnx").run(image)["y"]
    (tmp_path / "out").mkdir()
    notes = ncnn.build(Source(None, tmp_path / "graph.onnx"), "fp32", tmp_path / "out", None)  # type: ignore[arg-type]
    np.testing.assert_allclose(ncnn.open(tmp_path / "out", notes, 1).run(image)["y"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (one("MaxPool", {}, kernel_shape=[2, 2], dilations=[2, 2]), "MaxPool with dilations = .2, 2. .node node"),
        (one("Pad", {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, 19, mode="wrap"), "Pad with mode = wrap"),
    ],
)
def test_what_ncnn_lacks_is_refused_by_its_attribute(model: onnx.ModelProto, message: str) -> None:
    """Node, operator and attribute are named before anything is converted."""
    with pytest.raises(UnsupportedOperator, match=f"ncnn lacks {message}"):
        lower(model)


@pytest.mark.parametrize("name", ["mean of the image", "nearest, mirrored"])
def test_forms_that_hold_for_one_size_are_refused_for_several(name: str) -> None:
    """Constants that follow from the input's size are not built in where it may change."""
    with pytest.raises(UnsupportedOperator, match="for inputs of several sizes"):
        lower(FORMS[name], any_size=True)


def test_what_the_converter_leaves_is_named_with_its_attributes(tmp_path: Path) -> None:
    """The operator as ncnn's converter prints it."""
    save_graph(one("LpPool", {}, kernel_shape=[2, 2], p=3), tmp_path / "graph.onnx")
    with pytest.raises(UnsupportedOperator, match=r"ncnn lacks the operator LpPool with kernel_shape=\(2,2\), p=3"):
        ncnn.build(Source(None, tmp_path / "graph.onnx"), "fp32", tmp_path, None)  # type: ignore[arg-type]


def test_a_failure_of_the_converter_says_why(tmp_path: Path) -> None:
    """It names the operator that stopped it, also where the program dies of it."""
    regions = {"r": np.array([[0, 0, 4, 4]], np.float32), "i": np.array([0])}
    save_graph(one("RoiAlign", regions, 22, output_height=2, output_width=2), tmp_path / "graph.onnx")
    with pytest.raises(BackendError, match=r"pnnx, which converts graphs for ncnn, failed: .*RoiAlign"):
        ncnn.build(Source(None, tmp_path / "graph.onnx"), "fp32", tmp_path, None)  # type: ignore[arg-type]
