"""Simulated int8 layers: the integers of a target, computed here with numpy's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sandglass.backends import openvino
from sandglass.core import host
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import find_layers, fingerprint
from sandglass.graph.session import GraphSession
from sandglass.quantization.plan import Plan, TensorRange, planned_layers
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Arithmetic, Spec

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
KINDS = {
    "asymmetric": Spec(OPERATORS, asymmetric=True, arithmetic=openvino.SPEC.arithmetic),
    "symmetric": Spec(OPERATORS, asymmetric=False, arithmetic=Arithmetic(fused_sums=True, half_away=True)),
    "plain": Spec(OPERATORS, asymmetric=True),
}
RANGE = TensorRange(-2.0, 3.0, 2.5)


def one_layer(
    path: Path, operator: str, weight: np.ndarray, shape: list[int], bias: np.ndarray | None, **given: object
) -> Path:
    """A graph with one layer, x to y."""
    values = {"w": weight} | ({} if bias is None else {"b": bias})
    node = helper.make_node(operator, ["x", *values], ["y"], "layer", **given)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    save_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def plan_of(graph: Path) -> Plan:
    """x over RANGE, all layers in int8."""
    model = load_graph(graph)
    return Plan(fingerprint(model), "minmax", {"x": RANGE}, planned_layers(find_layers(model)))


def rounded(values: np.ndarray, spec: Spec) -> tuple[np.ndarray, float]:
    """Integers of x without the zero point, and their step, in float64."""
    if not spec.asymmetric:
        step = RANGE.threshold / 127
        return np.clip(np.round(values / step), -127, 127), step
    low, high = max(RANGE.minimum, -RANGE.threshold), min(RANGE.maximum, RANGE.threshold)
    step = (high - low) / 255
    zero = round(-low / step)
    return np.clip(np.round(values / step) + zero, 0, 255) - zero, step


CASES = {
    "Conv": ((6, 4, 3, 3), [2, 4, 7, 5], {"pads": [1, 1, 1, 1]}, (0, 6)),
    "grouped Conv": ((6, 2, 3, 3), [2, 4, 7, 5], {"group": 2}, (0, 6)),
    "ConvTranspose": ((4, 6, 4, 4), [1, 4, 5, 3], {"strides": [2, 2], "pads": [1, 1, 1, 1]}, (1, 6)),
    "grouped ConvTranspose": ((4, 3, 2, 2), [1, 4, 5, 3], {"group": 2, "strides": [2, 2]}, (1, 6)),
    "depthwise ConvTranspose": ((4, 1, 2, 2), [1, 4, 5, 3], {"group": 4, "strides": [2, 2]}, (0, 4)),
    "Gemm": ((8, 5), [3, 8], {}, (1, 5)),
    "transposed Gemm": ((5, 8), [3, 8], {"transB": 1}, (0, 5)),
    "MatMul": ((8, 5), [2, 3, 8], {}, (1, 5)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_layer_computes_with_integers(case: str, kind: str, tmp_path: Path) -> None:
    """Rounded input times rounded weights, as integers, then the steps of both and the bias, for every operator."""
    shape, size, given, (axis, channels) = CASES[case]
    random, operator = np.random.default_rng(0), case.rpartition(" ")[2]
    weight = random.standard_normal(shape).astype(np.float32)
    bias = None if operator == "MatMul" else random.standard_normal(channels).astype(np.float32)
    graph = one_layer(tmp_path / "one.onnx", operator, weight, size, bias, **given)
    values = random.normal(0, 1.5, size).astype(np.float32)
    found = simulate(graph, plan_of(graph), KINDS[kind]).run({"x": values})["y"]

    others = tuple(i for i in range(weight.ndim) if i != axis)
    steps = np.abs(weight).max(axis=others, keepdims=True) / 127
    integers, step = rounded(values.astype(np.float64), KINDS[kind])
    exact = one_layer(
        tmp_path / "exact.onnx", operator, np.round(weight / steps).astype(np.float32), size, None, **given
    )
    sums = GraphSession(exact).run({"x": integers.astype(np.float32)})["y"].astype(np.float64)
    assert np.array_equal(sums, np.round(sums))
    along = (-1,) if sums.ndim != 4 else (1, -1, 1, 1)
    scale = np.tile(steps.ravel() * step, channels // steps.size).reshape(along)
    expected = sums * scale + (0 if bias is None else bias.reshape(along))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("away", "expected"), [(True, [1, -1, 2, -2, 3, 127]), (False, [0, 0, 2, -2, 2, 127])])
def test_halves_go_where_the_target_sends_them(away: bool, expected: list[int], tmp_path: Path) -> None:
    """A value in the middle between two integers is rounded away from zero, or to the even one."""
    graph = one_layer(tmp_path / "one.onnx", "MatMul", np.ones((1, 1), np.float32), [6, 1], None)
    plan = Plan(fingerprint(load_graph(graph)), "minmax", {"x": TensorRange(-127, 127, 127.0)},
                planned_layers(find_layers(load_graph(graph))))  # fmt: skip
    spec = Spec(OPERATORS, asymmetric=False, arithmetic=Arithmetic(half_away=away))
    values = np.array([[0.5], [-0.5], [1.5], [-1.5], [2.5], [500]], np.float32)
    assert simulate(graph, plan, spec).run({"x": values})["y"].ravel().tolist() == expected


@pytest.mark.parametrize(("signed", "expected"), [(True, -1), (False, 0)])
def test_a_zero_point_of_128_is_none_of_int8(
    signed: bool, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value just below -0.5 is rounded down, unless 128 is added to it before: that makes it a half, in float32."""
    monkeypatch.setattr(host, "multiplies_signed", lambda: signed)
    graph = one_layer(tmp_path / "one.onnx", "MatMul", np.ones((1, 1), np.float32), [1, 1], None)
    model = load_graph(graph)
    plan = Plan(fingerprint(model), "minmax", {"x": TensorRange(-128, 127, 128.0)}, planned_layers(find_layers(model)))
    values = np.nextafter(np.full((1, 1), -0.5, np.float32), np.float32(-1))
    spec = Spec(OPERATORS, asymmetric=True, arithmetic=openvino.SPEC.arithmetic)
    assert simulate(graph, plan, spec).run({"x": values})["y"].item() == pytest.approx(expected, abs=1e-6)


def test_fused_arithmetic_is_rounded_once(tmp_path: Path) -> None:
    """A sum times its step, a number of 24 bits, plus the bias: exact before the one rounding, or rounded twice."""
    weight, bias = np.full((1, 1, 1, 1), 127, np.float32), np.array([-99.0], np.float32)
    graph = one_layer(tmp_path / "one.onnx", "Conv", weight, [1, 1, 1, 1], bias)
    model = load_graph(graph)
    plan = Plan(fingerprint(model), "minmax", {"x": TensorRange(-1, 1, 1.0)}, planned_layers(find_layers(model)))
    factor = np.float32(127) * (1 / np.float32(1))
    step = 1 / (factor * np.float32(1))
    sums = 99 * 127
    once = np.float32(float(step) * sums - 99.0)
    twice = np.float32(step * np.float32(sums)) - np.float32(99)
    values = np.full((1, 1, 1, 1), 99 / 127, np.float32)
    found = [
        float(
            simulate(graph, plan, Spec(OPERATORS, False, arithmetic=Arithmetic(fused_sums=fused)))
            .run({"x": values})["y"]
            .item()
        )
        for fused in (True, False)
    ]
    assert once != twice
    assert found == [float(once), float(twice)]


def test_what_else_reads_the_input_reads_floats(tmp_path: Path) -> None:
    """Only the int8 layer sees integers; a sum beside it adds the values as they are."""
    graph = one_layer(tmp_path / "one.onnx", "MatMul", np.zeros((3, 3), np.float32) + 1, [2, 3], None)
    model = load_graph(graph)
    model.graph.node[0].output[0] = "product"
    model.graph.node.append(helper.make_node("Add", ["product", "x"], ["y"], "sum"))
    onnx.save(model, graph)
    values = np.array([[0.013, -0.7, 1.1], [0.2, 0.4, 0.019]], np.float32)
    found = simulate(graph, plan_of(graph), KINDS["plain"]).run({"x": values})["y"]
    integers, step = rounded(values.astype(np.float64), KINDS["plain"])
    np.testing.assert_allclose(found - values, np.repeat(integers.sum(axis=1, keepdims=True) * step, 3, 1), atol=1e-5)
