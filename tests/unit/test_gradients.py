"""Gradients are the slopes of the outputs, and none is given where an operator's adjoint is not known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import network, normal
from onnx import numpy_helper

from sandglass.graph.gradients import with_gradients
from sandglass.graph.session import GraphSession

STEP = 1e-3
# By name: shape of x, that of y, and what lies between; constants are those of CONSTANTS.
NETWORKS = {
    "convolution": ("1, 3, 9, 8", "1, 4, 9, 8", "y = Conv<pads = [1, 1, 1, 1]>(x, w, b)"),
    "strides": ("1, 3, 10, 9", "1, 4, 5, 5", "y = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)"),
    "uneven padding": ("1, 3, 10, 9", "1, 4, 5, 6", "y = Conv<pads = [0, 2, 1, 3], strides = [2, 2]>(x, w)"),
    "dilation": ("1, 3, 9, 8", "1, 4, 5, 4", "y = Conv<dilations = [2, 2]>(x, w, b)"),
    "depthwise": ("1, 4, 9, 8", "1, 4, 9, 8", "y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, d)"),
    "groups": ("1, 4, 6, 5", "1, 6, 6, 5", "y = Conv<group = 2>(x, g)"),
    "transposed": ("1, 4, 5, 6", "1, 3, 10, 12", "y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>(x, t)"),
    "transposed and padded": (
        "1, 4, 5, 6", "1, 3, 11, 13",
        "y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>(x, t)",
    ),
    "relu": ("1, 3, 6, 5", "1, 3, 6, 5", "y = Relu(x)"),
    "clip": ("1, 3, 6, 5", "1, 3, 6, 5", "y = Clip(x, low, high)"),
    "clip without an end": ("1, 3, 6, 5", "1, 3, 6, 5", "y = Clip(x, low)"),
    "sum": ("1, 3, 6, 5", "1, 3, 6, 5", "r = Relu(x) y = Add(x, r)"),
    "constant term": ("1, 3, 6, 5", "1, 3, 6, 5", "r = Relu(x) y = Add(r, low)"),
    "normalization": ("1, 3, 6, 5", "1, 3, 6, 5", "y = BatchNormalization(x, b3, b3, b3, v3)"),
    "max pool": ("1, 3, 6, 8", "1, 3, 3, 4", "y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)"),
    "nearest": (
        "1, 3, 4, 5", "1, 3, 8, 10",
        'y = Resize<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , twice)',
    ),
    "nearest by halves": ("1, 3, 4, 5", "1, 3, 8, 10", "y = Resize(x, , twice)"),
    "concat": ("1, 3, 6, 5", "1, 6, 6, 5", "r = Relu(x) y = Concat<axis = 1>(r, x)"),
    "classifier": (
        "1, 3, 6, 5", "1, 7",
        "p = GlobalAveragePool(x) f = Flatten(p) y = Gemm<transB = 1>(f, m, b7)",
    ),
    "matrices": ("1, 3, 6, 5", "6, 7", "s = Reshape(x, rows) p = MatMul(s, n) i = Identity(p) y = Relu(i)"),
    "branches that meet": (
        "1, 4, 8, 8", "1, 4, 8, 8",
        "c = Conv<group = 4, pads = [1, 1, 1, 1]>(x, d) r = Relu(c) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) u = Resize(p, , twice) s = Add(u, r) y = Relu(s)",
    ),
}  # fmt: skip
CONSTANTS = {
    "w": normal(1, 4, 3, 3, 3), "b": normal(2, 4), "d": normal(3, 4, 1, 3, 3), "g": normal(4, 6, 2, 1, 1),
    "t": normal(5, 4, 3, 4, 4), "low": np.float32(-0.3), "high": np.float32(0.7), "b3": normal(6, 3),
    "v3": np.abs(normal(7, 3)) + 0.5, "twice": np.array([1, 1, 2, 2]), "m": normal(8, 7, 3), "b7": normal(9, 7),
    "n": normal(10, 15, 7), "v": normal(11, 3, 3, 4, 4),
}  # fmt: skip


def built(text: str, shape: str = "1, 3, 6, 5", made: str = "1, 3, 6, 5") -> onnx.ModelProto:
    """A network from x to y."""
    model = network(f"g (float[{shape}] x) => (float[{made}] y) {{ {text} }}", CONSTANTS)
    if "rows" in text:
        model.graph.initializer.append(numpy_helper.from_array(np.array([6, 15]), "rows"))
    return model


def size(shape: str) -> list[int]:
    """A shape's numbers."""
    return [int(number) for number in shape.split(",")]


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_is_the_slope(name: str) -> None:
    """Along any direction the sum of weighted outputs rises by the gradient's part in it."""
    shape, made, text = NETWORKS[name]
    x, direction, given = normal(20, *size(shape)), normal(21, *size(shape)), normal(22, *size(made))
    found = with_gradients(built(text, shape, made), ["x"])
    (slope,) = GraphSession(found.model, [found.gradients["x"]]).run({"x": x, found.weights["y"]: given}).values()
    plain = GraphSession(built(text, shape, made), ["y"])
    above, below = (plain.run({"x": x + sign * STEP * direction})["y"].astype(np.float64) for sign in (1, -1))
    measured = ((above - below) * given).sum() / (2 * STEP)
    assert slope.shape == x.shape
    assert measured == pytest.approx(float((slope * direction).sum()), rel=0.02, abs=0.02)


UNKNOWN = {
    "an operator without an adjoint": "y = Softplus(x)",
    "a computed factor": "r = Relu(x) y = Mul(x, r)",
    "a sum that spreads a term": "p = GlobalAveragePool(x) r = Relu(x) y = Add(r, p)",
    "a sum of twice the same": "y = Add(x, x)",
    "windows that overlap": "y = MaxPool<kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1]>(x)",
    "pixels between others": 'y = Resize<mode = "linear">(x, , twice)',
    "pixels that are shifted": 'y = Resize<nearest_mode = "ceil">(x, , twice)',
    "padding by the size": "y = ConvTranspose<strides = [2, 2], output_shape = [12, 10]>(x, v)",
    "weights that are computed": "q = GlobalAveragePool(x) y = Conv(x, q)",
    "an end that is computed": "q = ReduceMax<keepdims = 0>(x) y = Clip(x, low, q)",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_no_gradient_is_better_than_a_wrong_one(name: str) -> None:
    """A tensor has none where one of its ways to the outputs is not known."""
    text = UNKNOWN[name]
    larger = ("pixels between others", "pixels that are shifted", "padding by the size")
    made = "1, 3, 12, 10" if name in larger else "1, 1, 6, 5" if name == "weights that are computed" else "1, 3, 6, 5"
    assert with_gradients(built(text, made=made), ["x"]).gradients == {}


def test_what_comes_after_an_unknown_operator_has_one() -> None:
    """And what leads to no output is no hindrance."""
    text = "s = Softplus(x) r = Relu(s) e = Exp(r) y = Add(r, low)"
    assert with_gradients(built(text), ["x", "s", "r"]).gradients.keys() == {"s", "r"}


def test_unknown_sizes_have_none() -> None:
    """Sides that are left open: a convolution's adjoint depends on them."""
    text = "g (float[1, 3, H, W] x) => (float[1, 4, H, W] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }"
    open_sides = network(text, CONSTANTS)
    assert with_gradients(open_sides, ["x"]).gradients == {}
