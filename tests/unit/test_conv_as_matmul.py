"""1x1 convolutions that make an output as products of matrices: the same numbers, and sums that stay in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten

from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.lowering.conv_as_matmul import outputs_as_products
from sandglass.quantization import make_plan
from sandglass.quantization.qdq import quantize_dequantize
from sandglass.quantization.spec import Spec

SPEC = Spec(("Conv",), asymmetric=True, between=("Add",))
WEIGHTS = {"w": normal(1, 8, 3, 3, 3), "b": normal(2, 8), "v": normal(3, 5, 8, 1, 1), "c": normal(4, 5),
           "k": normal(5, 5, 8, 3, 3), "g": normal(6, 8, 4, 1, 1), "low": np.array(0), "six": np.array(6)}  # fmt: skip
FIRST = "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a)"
# By name: text, and the operators that make the output.
CASES = {
    "with a bias": (f"{FIRST} y = Conv(r, v, c)", ["MatMul", "Add", "Transpose"]),
    "without": (f"{FIRST} y = Conv(r, v)", ["MatMul", "Transpose"]),
    "with a clamp": (f"{FIRST} s = Conv(r, v, c) y = Clip(s, low, six)", ["MatMul", "Add", "Transpose", "Clip"]),
    "3x3": (f"{FIRST} y = Conv<pads = [1, 1, 1, 1]>(r, k, c)", ["Conv"]),
    "strides": (f"{FIRST} y = Conv<strides = [2, 2]>(r, v, c)", ["Conv"]),
    "groups": (f"{FIRST} y = Conv<group = 2>(r, g)", ["Conv"]),
    "not the output": (f"{FIRST} s = Conv(r, v, c) y = Sigmoid(s)",
                       ["Conv", "QuantizeLinear", "DequantizeLinear", "Sigmoid"]),
}  # fmt: skip


def rounded(text: str, folder: Path) -> onnx.ModelProto:
    """A network with its rounding nodes."""
    save_graph(network(f"g (float[1, 3, 6, 4] x) => (float[N, C, H, W] y) {{ {text} }}", WEIGHTS), folder / "g.onnx")
    plan = make_plan.make_plan(folder / "g.onnx", [{"x": normal(10 + i, 1, 3, 6, 4)} for i in range(4)], "minmax")
    return rewritten(quantize_dequantize, load_graph(folder / "g.onnx"), plan, SPEC)


@pytest.mark.parametrize("name", CASES)
def test_products_give_the_same_numbers(name: str, tmp_path: Path) -> None:
    """Integers, scales and the layer's name stay; nothing is left behind."""
    text, made = CASES[name]
    model = rounded(text, tmp_path)
    save_graph(model, tmp_path / "before.onnx")
    changed = rewritten(outputs_as_products, model)
    onnx.checker.check_model(changed, full_check=True)
    assert [node.op_type for node in changed.graph.node][-len(made) :] == made
    save_graph(changed, tmp_path / "after.onnx")
    before, after = (
        GraphSession(tmp_path / f"{part}.onnx", optimize=False).run({"x": normal(20, 1, 3, 6, 4)})["y"]
        for part in ("before", "after")
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert np.abs(before).max() > 0
    read = {part for node in changed.graph.node for part in node.input}
    assert {entry.name for entry in changed.graph.initializer} <= read
    if "MatMul" in made:
        (product,) = [node for node in changed.graph.node if node.op_type == "MatMul"]
        assert product.name == ("s" if "s = Conv" in text else "y")


def test_layers_in_float_stay(tmp_path: Path) -> None:
    """Without integers there is nothing to gain."""
    model = network(f"g (float[1, 3, 6, 4] x) => (float[N, C, H, W] y) {{ {FIRST} y = Conv(r, v, c) }}", WEIGHTS)
    kinds = [node.op_type for node in model.graph.node]
    assert (
        [node.op_type for node in rewritten(outputs_as_products, model).graph.node] == kinds == ["Conv", "Relu", "Conv"]
    )
