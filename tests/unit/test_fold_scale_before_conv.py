"""Factors and terms before convolutions, folded into them: the same numbers with fewer nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal

from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.sources.rewrites.fold_scale_before_conv import rewrite

PADDED = "Conv<pads = [1, 1, 1, 1]>"
WEIGHTS = {"w": normal(1, 6, 4, 3, 3), "b": normal(2, 6), "v": normal(3, 5, 4, 1, 1), "d": normal(4, 4, 1, 3, 3),
           "s": np.array([1.5]), "t": np.array([-0.75]), "none": np.array([0.0]),
           "each": normal(5, 1, 4, 1, 1)}  # fmt: skip
# By name: what follows `h = Sigmoid(x)`, and the operators afterwards.
CASES = {
    "into weights": ("m = Mul(h, s) y = Conv(m, v)", ["Conv"]),
    "and a bias that is there": ("m = Mul(s, h) a = Add(m, t) y = Conv(a, w, b)", ["Conv"]),
    "and one that is not": ("m = Mul(h, s) a = Add(t, m) y = Conv(a, v)", ["Conv"]),
    "depthwise": ("m = Mul(h, s) a = Add(m, t) y = Conv<group = 4>(a, d)", ["Conv"]),
    "the term stays before padding": (f"m = Mul(h, s) a = Add(m, t) y = {PADDED}(a, w, b)", ["Add", "Conv"]),
    "the factor does not": (f"m = Mul(h, s) y = {PADDED}(m, w)", ["Conv"]),
    "several readers": (f"m = Mul(h, s) a = Add(m, t) c = {PADDED}(a, w) e = Conv(a, v) y = Concat<axis = 1>(c, e)",
                        ["Add", "Conv", "Conv", "Concat"]),
    "read by another": ("m = Mul(h, s) c = Conv<group = 4, pads = [1, 1, 1, 1]>(m, d) y = Add(c, m)",
                        ["Mul", "Conv", "Add"]),
    "shared weights": ("m = Mul(h, s) c = Conv(m, v) e = Conv(h, v) y = Add(c, e)", ["Mul", "Conv", "Conv", "Add"]),
    "one for each channel": ("m = Mul(h, each) y = Conv(m, v)", ["Mul", "Conv"]),
    "nothing": ("m = Mul(h, none) y = Conv(m, v)", ["Mul", "Conv"]),
    "weights that are made": ("m = Mul(h, s) n = Neg(v) y = Conv(m, n)", ["Mul", "Neg", "Conv"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_factors_are_folded(name: str, tmp_path: Path) -> None:
    """Weights take the factor; biases the term, but for what a convolution pads."""
    text, expected = CASES[name]
    model = network(f"g (float[1, 4, 5, 5] x) => (float[N, C, H, W] y) {{ h = Sigmoid(x) {text} }}", WEIGHTS)
    save_graph(model, tmp_path / "before.onnx")
    rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Sigmoid", *expected]
    save_graph(model, tmp_path / "after.onnx")
    x = normal(9, 1, 4, 5, 5)
    before, after = (GraphSession(tmp_path / f"{part}.onnx").run({"x": x})["y"] for part in ("before", "after"))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_outputs_stay() -> None:
    """A network that gives the scaled tensor away keeps it."""
    text = "g (float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] m, float[N, C, H, W] y) { m = Mul(x, s) y = Conv(m, v) }"
    model = network(text, WEIGHTS)
    rewrite(model)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Conv"]
