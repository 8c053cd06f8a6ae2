"""Sums and products between integers: what they compute, where they are written, and that they run on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten

from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.lowering.integer_arithmetic import sums_and_products
from sandglass.quantization import make_plan
from sandglass.quantization.qdq import quantize_dequantize
from sandglass.quantization.spec import Spec

SPEC = Spec(("Conv",), asymmetric=True, between=("Add", "HardSwish", "LeakyRelu", "Mul", "Sigmoid"))
WEIGHTS = {
    **{"w": normal(1, 8, 3, 3, 3), "b": normal(2, 8), "v": normal(3, 5, 8, 1, 1), "c": normal(4, 5)},
    **{"u": normal(5, 8, 8, 1, 1), "each": normal(6, 1, 8, 1, 1)},
    **{"two": np.array(2.0), "under": np.array([[[[-1.5]]]]), "nothing": np.array(0.0)},
}
FIRST, LAST = "f = Conv<pads = [1, 1, 1, 1]>(x, w, b)", "y = Conv(s, v, c)"
# By name: what stands between two layers, and how many sums and products run on integers.
CASES = {
    "number added": (f"{FIRST} s = Add(f, two) {LAST}", 1, 0),
    "number first, below 0": (f"{FIRST} s = Add(under, f) {LAST}", 1, 0),
    "no number at all": (f"{FIRST} s = Add(f, nothing) {LAST}", 1, 0),
    "number multiplied": (f"{FIRST} s = Mul(f, under) {LAST}", 0, 1),
    "hard swish": (f"{FIRST} s = HardSwish(f) {LAST}", 1, 1),
    "and a number": (f"{FIRST} h = HardSwish(f) s = Add(h, two) {LAST}", 2, 1),
    "gate": (f"{FIRST} p = GlobalAveragePool(f) q = Conv(p, u) g = HardSigmoid(q) s = Mul(f, g) {LAST}", 0, 1),
    "of a sum": (f"{FIRST} e = Conv(f, u) a = Add(e, f) s = HardSwish(a) {LAST}", 2, 1),
    "silu": (f"{FIRST} g = Sigmoid(f) s = Mul(f, g) {LAST}", 0, 1),
    "leaky": (f"{FIRST} l = LeakyRelu<alpha = 0.1>(f) s = Add(l, f) {LAST}", 1, 0),
    "one for each channel": (f"{FIRST} s = Add(f, each) {LAST}", 0, 0),
    "no layer behind": (f"{FIRST} e = Conv(f, u) h = HardSwish(e) a = Add(h, two) y = Sigmoid(a)", 0, 0),
    "computed in float between": (f"{FIRST} e = Tanh(f) s = Mul(e, two) {LAST}", 0, 0),
}  # fmt: skip


def written(name: str, folder: Path) -> tuple[Path, onnx.ModelProto]:
    """The float graph of a case, and it with rounding nodes."""
    path = folder / "g.onnx"
    save_graph(network(f"g (float[1, 3, 6, 4] x) => (float[N, C, H, W] y) {{ {CASES[name][0]} }}", WEIGHTS), path)
    plan = make_plan.make_plan(path, [{"x": normal(10 + i, 1, 3, 6, 4)} for i in range(8)], "minmax")
    return path, rewritten(quantize_dequantize, load_graph(path), plan, SPEC)


@pytest.mark.parametrize("name", CASES)
def test_they_run_on_integers(name: str, tmp_path: Path) -> None:
    """ONNX Runtime's own integer kernels take their places, and no float one is left."""
    import onnxruntime as runtime

    save_graph(rewritten(sums_and_products, written(name, tmp_path)[1]), tmp_path / "model.onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    runtime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    _, sums, products = CASES[name]
    assert (kinds.count("QLinearAdd"), kinds.count("QLinearMul")) == (sums, products)
    if sums + products:
        assert not {"Add", "Mul", "HardSwish", "Sigmoid", "LeakyRelu"} & set(kinds)


@pytest.mark.parametrize("name", CASES)
def test_they_compute_the_same(name: str, tmp_path: Path) -> None:
    """But for the rounding of a gate: within two steps of the sum's or product's result, far less in the mean."""
    _path, model = written(name, tmp_path)
    save_graph(model, tmp_path / "before.onnx")
    changed = rewritten(sums_and_products, model)
    onnx.checker.check_model(changed, full_check=True)
    save_graph(changed, tmp_path / "after.onnx")
    x = {"x": normal(20, 1, 3, 6, 4)}
    exact, before, after = (
        GraphSession(tmp_path / f"{part}.onnx", optimize=False).run(x)["y"] for part in ("g", "before", "after")
    )
    rounding, more = (float(np.linalg.norm(found - exact) / np.linalg.norm(exact)) for found in (before, after))
    assert 0 < more < 1.5 * rounding < 0.1


def test_a_hard_swish_spends_no_step_below_minus_three(tmp_path: Path) -> None:
    """There its result is 0: the grid of what it alone reads begins at -3, where it may go further down."""
    _, model = written("hard swish", tmp_path)
    values = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    low = -float(values["f.zero_point"]) * float(values["f.scale"])
    assert low == pytest.approx(-3, abs=float(values["f.scale"]))
    _, model = written("number multiplied", tmp_path)
    values = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    assert -float(values["f.zero_point"]) * float(values["f.scale"]) < -4
