"""auto_pad, ceil_mode and output_shape as pads: the same result on ONNX Runtime, and nothing left to be computed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import normal
from onnx import TensorProto, helper, numpy_helper

from sandglass.graph.io import static_outputs
from sandglass.sources.bring_up import bring_up
from sandglass.sources.rewrites.explicit_padding import rewrite

SIZES = [(7, 7), (8, 9), (10, 6)]
COMPUTED = {"auto_pad", "ceil_mode", "output_shape"}


def one(
    operator: str, size: tuple[int, int], weight: tuple[int, ...] = (), opset: int = 22, **given: object
) -> onnx.ModelProto:
    """A graph of one node over an image (1, 3, height, width)."""
    inputs, weights = ["x"], []
    if weight:
        inputs, weights = ["x", "w"], [numpy_helper.from_array(normal(1, *weight), "w")]
    node = helper.make_node(operator, inputs, ["y"], "node", **given)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def ran(model: onnx.ModelProto) -> np.ndarray:
    """What ONNX Runtime computes on an image of negative and positive values."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    (found,) = session.run(None, {"x": normal(0, *shape) - 1})
    return np.asarray(found)


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with explicit padding, which computes what the graph does."""
    expected, original = ran(model), onnx.ModelProto.FromString(model.SerializeToString())
    rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    assert not COMPUTED & {attribute.name for node in model.graph.node for attribute in node.attribute}, original
    np.testing.assert_allclose(ran(model), expected, rtol=1e-5, atol=1e-5)
    return model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_convolutions(automatic: str, size: tuple[int, int]) -> None:
    """Kernels whose shape only the weights say, strides, and dilations where ONNX Runtime takes them."""
    for kernel, stride in itertools.product(((3, 3), (2, 5), (1, 1)), (1, 2, 3)):
        dilations = [1, 2 if automatic == "VALID" and kernel[1] == 3 else 1]
        check(one("Conv", size, (4, 3, *kernel), auto_pad=automatic, strides=[stride, 1], dilations=dilations))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
def test_transposed_convolutions(automatic: str, size: tuple[int, int]) -> None:
    """With a size of the result and without, larger than what the windows cover too."""
    for kernel, stride in itertools.product((2, 3, 4), (1, 2, 3)):
        weight, strides = (3, 4, kernel, 3), [stride, 2]
        if automatic != "NOTSET":
            check(one("ConvTranspose", size, weight, auto_pad=automatic, strides=strides))
        if automatic != "VALID":
            for more in (0, stride - 1, -1):
                wanted = [(size[0] - 1) * stride + kernel + more, size[1] * 2]
                check(one("ConvTranspose", size, weight, auto_pad=automatic, strides=strides, output_shape=wanted))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("operator", ["AveragePool", "LpPool", "MaxPool"])
def test_pools(operator: str, size: tuple[int, int]) -> None:
    """Sizes rounded up over pads, even ones and uneven ones, and automatic padding."""
    for kernel, stride, pads in itertools.product((2, 3), (1, 2, 3), ([0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1])):
        given = {"kernel_shape": [kernel, 3], "strides": [stride, 2]}
        check(one(operator, size, ceil_mode=1, pads=pads, **given))
        for automatic in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            check(one(operator, size, auto_pad=automatic, **given))


@pytest.mark.parametrize("opset", [12, 19])
@pytest.mark.parametrize("size", SIZES)
def test_averages_that_count_their_padding(size: tuple[int, int], opset: int) -> None:
    """The rows that rounding up adds are never counted."""
    for kernel, stride, pads in itertools.product((2, 3), (2, 3), ([0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1])):
        given = {"kernel_shape": [kernel, 3], "strides": [stride, 2], "pads": pads, "count_include_pad": 1}
        check(one("AveragePool", size, opset=opset, ceil_mode=1, **given))
    check(one("AveragePool", size, kernel_shape=[3, 3], auto_pad="SAME_LOWER", count_include_pad=1))


def test_a_pool_that_cannot_be_written_so_stays() -> None:
    """Dilated windows may reach further beyond the image than pads may."""
    model = one("MaxPool", (6, 6), kernel_shape=[2, 2], strides=[3, 3], dilations=[4, 4], ceil_mode=1)
    expected = ran(model)
    rewrite(model)
    np.testing.assert_array_equal(ran(model), expected)


def test_names_of_the_graph_are_not_taken() -> None:
    """What is added beside a tensor `y.padded` has another name."""
    model = one("AveragePool", (8, 9), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1,
                count_include_pad=1)  # fmt: skip
    model.graph.node.append(helper.make_node("Identity", ["x"], ["y.padded"], "other"))
    model.graph.output.append(helper.make_tensor_value_info("y.padded", TensorProto.FLOAT, [1, 3, 8, 9]))
    rewrite(model)
    onnx.checker.check_model(model, full_check=True)


def test_bring_up_makes_padding_explicit(tmp_path: Path) -> None:
    """It is among the rewrites."""
    model = bring_up(
        one("MaxPool", (7, 8), opset=12, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"), (7, 8)
    )
    (node,) = model.graph.node
    assert {attribute.name for attribute in node.attribute} == {"kernel_shape", "strides", "pads"}


@pytest.mark.parametrize("opset", [17, 22])
def test_shapes_that_were_inferred_with_a_window_outside_are_corrected(opset: int) -> None:
    """A window that begins behind the image is none; before opset 22 shape inference counts it."""
    model = one("MaxPool", (9, 10), opset=opset, kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
    model.graph.node[0].output[0] = "pooled"
    model.graph.node.append(
        helper.make_node(
            "MaxPool", ["pooled"], ["y"], "next", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"
        )
    )
    model = onnx.shape_inference.infer_shapes(model)
    expected = ran(model)
    rewrite(model)
    assert static_outputs(model) == {"y": expected.shape}
    np.testing.assert_array_equal(ran(model), expected)
