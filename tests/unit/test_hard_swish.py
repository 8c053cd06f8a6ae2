"""Hard swish written out in four nodes becomes one, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal

from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.sources.rewrites.hard_swish import rewrite

NUMBERS = {name: np.array(value) for name, value in
           {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6, "five": 5}.items()}  # fmt: skip
GATE = "a = Add(x, three) c = Clip(a, zero, six)"
# By name: text, and the operators afterwards.
CASES = {
    "divided product": (f"{GATE} m = Mul(x, c) y = Div(m, six)", ["HardSwish"]),
    "multiplied product": (f"{GATE} m = Mul(c, x) y = Mul(sixth, m)", ["HardSwish"]),
    "divided gate": (f"{GATE} d = Div(c, six) y = Mul(x, d)", ["HardSwish"]),
    "term first": ("a = Add(three, x) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)", ["HardSwish"]),
    "another divisor": (f"{GATE} m = Mul(x, c) y = Div(m, five)", ["Add", "Clip", "Mul", "Div"]),
    "six by it": (f"{GATE} m = Mul(x, c) y = Div(six, m)", ["Add", "Clip", "Mul", "Div"]),
    "another end": ("a = Add(x, three) c = Clip(a, zero, five) m = Mul(x, c) y = Div(m, six)",
                    ["Add", "Clip", "Mul", "Div"]),
    "no end": ("a = Add(x, three) c = Clip(a, zero) m = Mul(x, c) y = Div(m, six)", ["Add", "Clip", "Mul", "Div"]),
    "another term": ("a = Add(x, five) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
                     ["Add", "Clip", "Mul", "Div"]),
    "another x": (f"n = Neg(x) {GATE} m = Mul(n, c) y = Div(m, six)", ["Neg", "Add", "Clip", "Mul", "Div"]),
    "read by others": (f"{GATE} m = Mul(x, c) d = Div(m, six) y = Add(c, d)", ["Add", "Clip", "Mul", "Div", "Add"]),
    "product read by others": (f"{GATE} m = Mul(x, c) d = Div(m, six) y = Add(m, d)",
                               ["Add", "Clip", "Mul", "Div", "Add"]),
    "half of it": (f"{GATE} y = Mul(x, c)", ["Add", "Clip", "Mul"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hard_swish_is_one_operator(name: str, tmp_path: Path) -> None:
    """The same numbers, and the last node's name."""
    text, expected = CASES[name]
    model = network(f"g (float[1, 4, 5, 3] x) => (float[1, 4, 5, 3] y) {{ {text} }}", NUMBERS)
    save_graph(model, tmp_path / "before.onnx")
    rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == expected
    assert model.graph.node[-1].name == "y"
    save_graph(model, tmp_path / "after.onnx")
    x = 4 * normal(1, 1, 4, 5, 3)
    before, after = (GraphSession(tmp_path / f"{part}.onnx").run({"x": x})["y"] for part in ("before", "after"))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_outputs_inside_stay() -> None:
    """A network that gives the gate away keeps it."""
    text = f"g (float[1, 4] x) => (float[1, 4] c, float[1, 4] y) {{ {GATE} m = Mul(x, c) y = Div(m, six) }}"
    model = network(text, NUMBERS)
    rewrite(model)
    assert [node.op_type for node in model.graph.node] == ["Add", "Clip", "Mul", "Div"]
