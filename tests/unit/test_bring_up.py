"""Foreign ONNX files: brought up, or refused with the reason. Graphs are written out as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal
from onnx import TensorProto, helper, numpy_helper, parser

from sandglass.core.errors import GraphError
from sandglass.graph.io import load_graph, static_inputs, static_outputs
from sandglass.graph.session import GraphSession
from sandglass.graph.shapes import fix_input
from sandglass.sources.bring_up import bring_up, bring_up_file
from sandglass.sources.rewrites import removed_attributes, weights_among_inputs

FREE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }
"""


def old_model() -> onnx.ModelProto:
    """Opset 8, IR 3: a convolution and a BatchNorm with `spatial`, weights listed among the inputs."""
    random = np.random.default_rng(0)
    arrays = {"w": random.standard_normal((4, 3, 3, 3)), "s": random.uniform(0.5, 2, 4), "b": random.standard_normal(4),
              "m": random.standard_normal(4), "v": random.uniform(0.5, 2, 4)}  # fmt: skip
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 6])]
    inputs += [helper.make_tensor_value_info(w.name, TensorProto.FLOAT, w.dims) for w in weights]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "norm", spatial=0),
             helper.make_node("Clip", ["n"], ["y"], "clip", min=0.0, max=6.0)]  # fmt: skip
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 6])
    graph = helper.make_graph(nodes, "old", inputs, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)


def test_old_model_comes_up_and_computes_the_same(tmp_path: Path) -> None:
    """Weights leave the inputs, `spatial` goes, BatchNorm is folded, the opset is 17, the numbers stay."""
    onnx.save(old_model(), tmp_path / "old.onnx")
    bring_up_file(tmp_path / "old.onnx", tmp_path / "new.onnx", (8, 6))
    model = load_graph(tmp_path / "new.onnx")
    assert model.opset_import[0].version == 17
    assert [value.name for value in model.graph.input] == ["x"]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Clip"]
    assert all(node.name for node in model.graph.node)
    image = np.random.default_rng(1).standard_normal((1, 3, 8, 6)).astype(np.float32)
    w, s, b, m, v = (numpy_helper.to_array(i) for i in old_model().graph.initializer)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image[0], ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
    conv = np.einsum("chwij,ocij->ohw", windows, w)
    shape = (4, 1, 1)
    normed = (conv - m.reshape(shape)) / np.sqrt(v + 1e-5).reshape(shape) * s.reshape(shape) + b.reshape(shape)
    found = GraphSession(tmp_path / "new.onnx").run({"x": image})["y"][0]
    np.testing.assert_allclose(found, np.clip(normed, 0, 6), atol=1e-4)


def test_free_dimensions_are_fixed() -> None:
    """A dynamic batch and size become one image of the card's size."""
    model = bring_up(parser.parse_model(FREE), (32, 24))
    assert static_inputs(model) == {"x": (1, 3, 32, 24)}
    assert static_outputs(model) == {"y": (1, 3, 32, 24)}


def test_free_dimension_is_named_where_a_fixed_one_is_needed() -> None:
    """Asking for static shapes of a dynamic graph names the input and its dimensions."""
    with pytest.raises(GraphError, match=r"x has the shape \['N', 3, 'H', 'W'\]"):
        static_inputs(parser.parse_model(FREE))


def test_card_of_another_size_is_refused() -> None:
    """A graph that is fixed to one size does not take another."""
    model = parser.parse_model(FREE.replace("N, 3, H, W", "1, 3, 32, 32"))
    with pytest.raises(GraphError, match=r"\[1, 3, 32, 32\], but the card says \[1, 3, 32, 24\]"):
        fix_input(model, (32, 24))


def test_two_inputs_are_refused() -> None:
    """A graph with two images is none for a task with one."""
    text = FREE.replace("float[N, 3, H, W] x)", "float[N, 3, H, W] x, float[N, 3, H, W] z)").replace(
        "Relu(x)", "Add(x, z)"
    )
    with pytest.raises(GraphError, match="2 inputs"):
        fix_input(parser.parse_model(text), (32, 24))


SLICES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 3, 7, 10] x) => (float[1, 3, 4, 4] y)
<int64[2] starts = {%s}, int64[2] ends = {%s}, int64[2] axes = {%s}, int64[2] steps = {%s}> {
    r = Relu (x)
    y = Slice (r, starts, ends, axes, steps)
}
"""


def test_every_other_pixel_is_a_pooling(tmp_path: Path) -> None:
    """A Slice with steps over whole rows and columns takes the same pixels as a pooling of one."""
    text = SLICES % ("0, 0", "9223372036854775807, 2147483647", "-1, 2", "3, 2")
    image = np.random.default_rng(0).standard_normal((1, 3, 7, 10)).astype(np.float32)
    onnx.save(parser.parse_model(text), tmp_path / "before.onnx")
    bring_up_file(tmp_path / "before.onnx", tmp_path / "after.onnx", (7, 10))
    assert [node.op_type for node in load_graph(tmp_path / "after.onnx").graph.node] == ["Relu", "MaxPool"]
    found = GraphSession(tmp_path / "after.onnx").run({"x": image})["y"]
    np.testing.assert_array_equal(found, np.maximum(image, 0)[:, :, ::2, ::3])


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ("1, 0", "9223372036854775807, 9223372036854775807", "2, 3", "2, 3"),
        ("0, 0", "6, 9223372036854775807", "2, 3", "2, 3"),
        ("0, -1", "9223372036854775807, -11", "2, 3", "2, -3"),
        ("0, 0", "9223372036854775807, 9223372036854775807", "1, 2", "2, 2"),
    ],
    ids=["from the second", "not to the end", "backwards", "channels"],
)
def test_other_slices_stay(starts: str, ends: str, axes: str, steps: str) -> None:
    """What takes other pixels, or channels, is left as it is."""
    text = (SLICES % (starts, ends, axes, steps)).replace("float[1, 3, 4, 4] y", "float[a, b, c, d] y")
    assert "Slice" in {node.op_type for node in bring_up(parser.parse_model(text), (7, 10)).graph.node}


def test_spatial_with_a_scale_per_pixel_is_refused() -> None:
    """`spatial=0` that really means a scale per pixel cannot be expressed later, and is refused by the node's name."""
    model = old_model()
    for initializer in model.graph.initializer:
        if initializer.name == "s":
            initializer.CopyFrom(numpy_helper.from_array(np.ones((4, 8, 6), np.float32), "s"))
    with pytest.raises(GraphError, match="'norm' has spatial=0"):
        removed_attributes.rewrite(model)


def test_inputs_without_weights_stay() -> None:
    """Only inputs that have an initializer are weights."""
    model = parser.parse_model(FREE)
    weights_among_inputs.rewrite(model)
    assert [value.name for value in model.graph.input] == ["x"]


@pytest.mark.parametrize("content", [b"", b"\x00\x01 not onnx", b"x" * 100, FREE.encode()])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Text, noise and empty files are refused by name."""
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(GraphError, match=r"a.onnx is not an ONNX"):
        load_graph(tmp_path / "a.onnx")


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    """An ONNX file that is cut off does not load as a smaller model."""
    data = old_model().SerializeToString()
    (tmp_path / "a.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(GraphError, match=r"a.onnx is not an ONNX"):
        load_graph(tmp_path / "a.onnx")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that does not exist is reported as such."""
    with pytest.raises(GraphError, match="cannot read"):
        load_graph(tmp_path / "none.onnx")


def test_shapes_are_known_after_all_rewrites(tmp_path: Path) -> None:
    """Every tensor of a graph that was brought up has its shape in the file: who opens its sides goes by them."""
    text = """g (float[1, 3, 8, 8] x) => (float[1, 4, 16, 16] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) m = Mul(c, s)
        a = Add(m, three) k = Clip(a, zero, six) g = Mul(m, k) h = Div(g, six) f = Mul(h, s) e = Conv(f, v)
        y = Resize<mode = "nearest">(e, , , z) }"""
    values = {"w": normal(1, 4, 3, 3, 3), "v": normal(2, 4, 4, 1, 1), "s": np.array([2.0]), "three": np.array(3),
              "zero": np.array(0), "six": np.array(6)}  # fmt: skip
    model = network(text, values)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 4, 16, 16], np.int64), "z"))
    graph = bring_up(model, (8, 8))
    assert [node.op_type for node in graph.graph.node] == ["Conv", "HardSwish", "Conv", "Resize"]
    known = {value.name for value in (*graph.graph.value_info, *graph.graph.output)}
    assert {name for node in graph.graph.node for name in node.output} <= known
