"""Files of other element types and of fixed batches: opened where they hold, else refused by what is in the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import normal
from onnx import TensorProto, helper, numpy_helper

from sandglass.core.errors import GraphError, ParityError
from sandglass.graph.io import load_graph, static_inputs, static_outputs
from sandglass.graph.session import GraphSession
from sandglass.sources.agreement import compare, session
from sandglass.sources.bring_up import bring_up_file
from sandglass.sources.rewrites.float32 import is_float32, is_narrow, rewrite

HALF, DOUBLE, FLOAT = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT
NUMPY = {HALF: np.float16, DOUBLE: np.float64, FLOAT: np.float32}


def typed(inner: int, outer: int) -> onnx.ModelProto:
    """A network that computes in one element type, with inputs and outputs of another."""
    weights = [
        numpy_helper.from_array((normal(1, 4, 3, 3, 3) / 5).astype(NUMPY[inner]), "w"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
    ]
    three = numpy_helper.from_array(np.array(3, NUMPY[inner]))
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "in", to=inner),
        helper.make_node("Conv", ["h", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["three"], "three", value=three),
        helper.make_node("Add", ["c", "three"], ["a"], "add"),
        helper.make_node("Resize", ["a", "", "scales"], ["r"], "up"),
        helper.make_node("Cast", ["r"], ["y"], "out", to=outer),
    ]
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info("x", outer, ["N", 3, 6, 5])],
        [helper.make_tensor_value_info("y", outer, ["N", 4, 12, 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("inner", [HALF, DOUBLE])
@pytest.mark.parametrize("outer", [HALF, DOUBLE, FLOAT])
def test_other_element_types_become_float32(inner: int, outer: int, tmp_path: Path) -> None:
    """Inside, at the inputs and at the outputs; nothing is cast any longer, and the results are those of the file."""
    onnx.save(typed(inner, outer), tmp_path / "typed.onnx")
    bring_up_file(tmp_path / "typed.onnx", tmp_path / "out.onnx", (6, 5))
    model = load_graph(tmp_path / "out.onnx")
    assert is_float32(model)
    assert {node.op_type for node in model.graph.node} == {"Conv", "Resize"}
    image = normal(2, 1, 3, 6, 5)
    expected = session(tmp_path / "typed.onnx").run({"x": image.astype(NUMPY[outer])})["y"]
    found = GraphSession(tmp_path / "out.onnx").run({"x": image})["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_types_in_branches_and_constants_are_replaced() -> None:
    """Wherever an element type stands, bfloat16 too."""
    constant = helper.make_tensor("v", TensorProto.BFLOAT16, [1], [1.5])
    inner = helper.make_graph([helper.make_node("Constant", [], ["k"], value=constant)], "branch", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert is_narrow(model)
    rewrite(model)
    assert is_float32(model)
    assert numpy_helper.to_array(model.graph.node[0].attribute[0].g.node[0].attribute[0].t).tolist() == [1.5]


def test_weight_that_changed_with_its_type_is_noticed(tmp_path: Path) -> None:
    """A half-precision file is not merely trusted to be what was made of it."""
    onnx.save(typed(HALF, FLOAT), tmp_path / "half.onnx")
    bring_up_file(tmp_path / "half.onnx", tmp_path / "out.onnx", (6, 5))
    model = load_graph(tmp_path / "out.onnx")
    entry = next(entry for entry in model.graph.initializer if len(entry.dims) == 4)
    entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry)[::-1].copy(), entry.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ParityError, match="correlation"):
        compare(tmp_path / "half.onnx", tmp_path / "wrong.onnx", {"x": (1, 3, 6, 5)}, least=0.999)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (TensorProto.UINT8, [1, 3, 6, 5], "input x is of type uint8, expected float"),
        (TensorProto.INT32, ["N", 3, "H", "W"], "input x is of type int32, expected float"),
        (TensorProto.UINT8, [1, 6, 5, 3], "input x is of type uint8, expected float"),
        (FLOAT, [1, 6, 5, 3], r"shape \[1, 6, 5, 3\].*channels first"),
        (FLOAT, [1, 1, 6, 5], r"shape \[1, 1, 6, 5\], but the card says \[1, 3, 6, 5\]"),
        (HALF, [1, 6, 5, 3], r"shape \[1, 6, 5, 3\].*channels first"),
    ],
)
def test_other_inputs_are_refused_by_what_they_are(
    kind: int, shape: list[int | str], message: str, tmp_path: Path
) -> None:
    """Types and layouts that are not read."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], "cast", to=FLOAT)],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "g.onnx")
    with pytest.raises(GraphError, match=message):
        bring_up_file(tmp_path / "g.onnx", tmp_path / "out.onnx", (6, 5))


BATCHES = {
    "nothing": "y = Relu(x)",
    "a reshape": "r = Reshape(x, flat) s = Relu(r) y = Reshape(s, back)",
    "a token for each image": "k = Concat<axis = 1>(x, token) p = Add(k, place) y = Relu(p)",
    "a merged batch": "r = Reshape(x, merged) s = Relu(r) y = Reshape(s, back)",
}
BROKEN = {
    "images that are mixed": "m = ReduceMean<axes = [0]>(x) y = Add(x, m)",
    "images of one's own": "y = Mul(x, each)",
}


def for_four(text: str) -> onnx.ModelProto:
    """A network for four images at once."""
    constants = {
        "flat": np.array([4, -1]), "back": np.array([4, 3, 6, 5]), "merged": np.array([12, 6, 5]),
        "token": np.broadcast_to(normal(1, 1, 1, 6, 5), (4, 1, 6, 5)).copy(), "place": normal(2, 1, 4, 6, 5),
        "each": np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1),
    }  # fmt: skip
    channels = 4 if "token" in text else 3
    shapes = f"(float[4, 3, 6, 5] x) => (float[4, {channels}, 6, 5] y)"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {shapes} {{ {text} }}')
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items() if name in read)
    return model


@pytest.mark.parametrize("name", BATCHES)
def test_fixed_batch_is_opened(name: str, tmp_path: Path) -> None:
    """One image then gives what it gave among four."""
    onnx.save(for_four(BATCHES[name]), tmp_path / "four.onnx")
    bring_up_file(tmp_path / "four.onnx", tmp_path / "one.onnx", (6, 5))
    model = load_graph(tmp_path / "one.onnx")
    assert static_inputs(model) == {"x": (1, 3, 6, 5)}
    assert static_outputs(model)["y"][0] == 1
    images = normal(3, 4, 3, 6, 5)
    expected, one = (
        GraphSession(tmp_path / "four.onnx").run({"x": images})["y"],
        GraphSession(tmp_path / "one.onnx"),
    )
    for i in range(4):
        np.testing.assert_allclose(one.run({"x": images[i : i + 1]})["y"][0], expected[i], atol=1e-6)


@pytest.mark.parametrize("name", BROKEN)
def test_batch_that_cannot_be_opened_is_named(name: str, tmp_path: Path) -> None:
    """Where images of a batch are not independent, or not alike."""
    onnx.save(for_four(BROKEN[name]), tmp_path / "four.onnx")
    with pytest.raises(GraphError, match=r"four.onnx has a fixed batch of 4 images.*batch of 1"):
        bring_up_file(tmp_path / "four.onnx", tmp_path / "one.onnx", (6, 5))
