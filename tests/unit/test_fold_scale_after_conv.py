"""Factors and terms after convolutions are folded into them, or left where they mean something else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from sandglass.sources.rewrites.fold_scale_after_conv import rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\ng (float[1, 2, 6, 5] x) => (float[1, 3, h, w] y) {'


def model(body: str) -> onnx.ModelProto:
    """A graph whose weights are `w` (3, 2, 3, 3) and `t` (2, 3, 2, 2), a bias `b`, and other constants."""
    made = parser.parse_model(f"{HEADER} {body} }}")
    random = np.random.default_rng(0)
    shapes = {"w": (3, 2, 3, 3), "t": (2, 3, 2, 2), "b": (3,), "one": (), "two": (1,), "each": (1, 3, 1, 1),
              "short": (3, 1, 1), "row": (1, 1, 1, 3), "five": (1, 1, 1, 1, 1)}  # fmt: skip
    for name, shape in shapes.items():
        values = random.uniform(0.5, 2, shape).astype(np.float32)
        made.graph.initializer.append(numpy_helper.from_array(values, name))
    return made


def run(graph: onnx.ModelProto) -> np.ndarray:
    """The first output for a random image."""
    image = np.random.default_rng(1).standard_normal((1, 2, 6, 5)).astype(np.float32)
    found: np.ndarray = ReferenceEvaluator(graph).run(None, {"x": image})[0]
    return found


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) y = Mul(c, one)",
        "c = Conv(x, w, b) m = Mul(each, c) y = Add(m, two)",
        "c = Conv(x, w, b) a = Add(c, short) m = Mul(a, each) y = Add(one, m)",
        "c = ConvTranspose<strides = [2, 2]>(x, t) m = Mul(c, each) y = Add(m, short)",
    ],
)
def test_one_convolution_is_left(body: str) -> None:
    """Scalars and values for each channel, on either side, in any number and order; the result stays."""
    graph = model(body)
    expected = run(graph)
    rewrite(graph)
    assert len(graph.graph.node) == 1
    assert len(graph.graph.initializer) == 2
    np.testing.assert_allclose(run(graph), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) y = Mul(c, row)",  # differs by column
        "c = Conv(x, w) r = Relu(c) y = Mul(r, one)",
        "c = Conv(x, w) y = Mul(c, c)",
        "c = Conv(x, w) d = Conv(x, w) y = Add(c, d)",
        "c = Conv(x, w) r = Relu(c) m = Mul(c, one) y = Add(m, r)",  # read twice
        "c = Conv(x, w) f = Mul(c, five) s = Constant<value_ints = [0]>() y = Squeeze(f, s)",  # adds a dimension
        "c = Conv(x, w) y = Sub(c, one)",
    ],
)
def test_what_means_something_else_stays(body: str) -> None:
    """Nothing is folded, and nothing computes another result."""
    graph = model(body)
    nodes, expected = [node.op_type for node in graph.graph.node], run(graph)
    rewrite(graph)
    assert [node.op_type for node in graph.graph.node] == nodes
    np.testing.assert_array_equal(run(graph), expected)


def test_weights_that_two_convolutions_share_are_folded_apart() -> None:
    """The other one keeps its own."""
    graph = model("c = Conv(x, w) d = Conv(x, w) m = Mul(c, one) r = Relu(d) y = Add(m, r)")
    expected = run(graph)
    rewrite(graph)
    assert [node.op_type for node in graph.graph.node] == ["Conv", "Conv", "Relu", "Add"]
    np.testing.assert_allclose(run(graph), expected, rtol=1e-5)


def test_an_output_of_the_graph_is_not_folded_away() -> None:
    """A convolution whose own result is an output keeps it."""
    graph = model("c = Conv(x, w) y = Mul(c, one)")
    graph.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    rewrite(graph)
    assert len(graph.graph.node) == 2
