"""Tensors that carry the values of others: which they are, that they share a range, and are rounded once and early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten

from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.graph.shared_values import carriers
from sandglass.lowering.quantize_before_moves import round_early
from sandglass.quantization import make_plan, shared_ranges
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.qdq import quantize_dequantize
from sandglass.quantization.spec import Spec

FLOAT, FLOWING = (
    Spec(("Conv",), asymmetric=True, between=between) for between in ((), ("Concat", "MaxPool", "Resize"))
)
WEIGHTS = {
    **{name: normal(i, 4, 4, 1, 1) for i, name in enumerate(["u", "v", "w"])},
    **{"first": normal(5, 4, 3, 3, 3), "wide": normal(6, 4, 8, 1, 1), "scales": np.array([1, 1, 2, 2])},
}
POOL = "MaxPool<kernel_shape = [2, 2], strides = [2, 2]>"
UP = 'Resize<mode = "nearest">'
# By name: what follows a first layer and its ReLU, r; groups of tensors with the same values; and, where each reads
# floats, the tensors that are rounded for the layers after r, before they are moved about where that can be.
CASES = {
    "pool": (f"p = {POOL}(r) y = Conv(p, w)", ["pr"], "r"),
    "resize": (f"q = {UP}(r, , scales) y = Conv(q, w)", ["qr"], "r"),
    "both": (f"q = {UP}(r, , scales) p = {POOL}(q) y = Conv(p, w)", ["pqr"], "r"),
    "linear": (f"q = {UP.replace('nearest', 'linear')}(r, , scales) y = Conv(q, w)", [], "q"),
    "pool of what others read": (f"p = {POOL}(r) s = Conv(p, u) t = Conv(r, v) q = {POOL}(t) y = Add(s, q)",
                                 ["pr", "qt"], "rp"),
    "resize of what others read": (f"q = {UP}(r, , scales) s = Conv(q, u) t = {POOL}(s) y = Add(t, r)",
                                   ["qr", "st"], "r"),
    "concat": ("s = Conv(r, u) t = Conv(r, v) c = Concat<axis = 1>(s, t) y = Conv(c, wide)", ["cst"], "rc"),
    "concat of what others read": ("s = Conv(r, u) c = Concat<axis = 1>(s, r) y = Conv(c, wide)", ["cs"], "rc"),
    "pool that is an output": (f"y = {POOL}(r) z = Conv(y, u)", ["ry"], "y"),
}  # fmt: skip


def saved(name: str, folder: Path) -> Path:
    """The graph of a case."""
    first = "f = Conv<pads = [1, 1, 1, 1]>(x, first) r = Relu(f)"
    text = CASES[name][0]
    outputs = ", ".join(f"float[N, C, H, W] {made}" for made in "yz" if f"{made} =" in text)
    model = network(f"g (float[1, 3, 8, 8] x) => ({outputs}) {{ {first} {text} }}", WEIGHTS)
    save_graph(model, folder / "g.onnx")
    return folder / "g.onnx"


def rounded(path: Path, spec: Spec) -> onnx.ModelProto:
    """Its graph with rounding nodes."""
    plan = make_plan.make_plan(path, [{"x": normal(10 + i, 1, 3, 8, 8)} for i in range(4)], "kl")
    return rewritten(quantize_dequantize, load_graph(path), plan, spec)


@pytest.mark.parametrize("name", CASES)
def test_tensors_of_the_same_values(name: str, tmp_path: Path) -> None:
    """By moving and joining; a part of a Concat that others read is none."""
    stands = carriers(load_graph(saved(name, tmp_path)), "xrpqstcy")
    groups = {standing: "".join(sorted(n for n in stands if stands[n] == standing)) for standing in stands.values()}
    assert sorted(group for group in groups.values() if len(group) > 1) == CASES[name][1]


def test_the_range_is_that_of_the_tensors_that_layers_read() -> None:
    """Of all of them where there are several, and of every tensor where layers read none; others keep theirs."""
    ranges = {
        "a": TensorRange(-1, 3, 2),
        "b": TensorRange(-2, 1, 1.5),
        "c": TensorRange(-9, 9, 9),
        "d": TensorRange(0, 1, 1),
    }
    stands = {"a": "b", "b": "b", "c": "b", "d": "d"}
    for read, expected in (("a", ranges["a"]), ("ab", TensorRange(-2, 3, 2)), ("", TensorRange(-9, 9, 9))):
        assert shared_ranges.shared(ranges, stands, read) == dict.fromkeys("abc", expected) | {"d": ranges["d"]}


@pytest.mark.parametrize("name", CASES)
def test_integers_that_are_moved_stay_what_they_are(name: str, tmp_path: Path) -> None:
    """Where integers flow, what such a node reads and what it makes have one scale and one zero point."""
    model = rounded(saved(name, tmp_path), FLOWING)
    grids = {node.input[0]: node.input[1:] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    values = {
        entry.name: onnx.numpy_helper.to_array(entry).item() for entry in model.graph.initializer if not entry.dims
    }
    for group in CASES[name][1]:
        assert len({tuple(values[part] for part in grids[tensor]) for tensor in group if tensor in grids}) <= 1
    assert set(CASES[name][2]) - {"y"} <= set(grids)


@pytest.mark.parametrize("name", CASES)
def test_rounding_early_changes_no_number(name: str, tmp_path: Path) -> None:
    """The pair stands before what moves values, where nothing else reads them; the output is the same to the bit."""
    model = rounded(saved(name, tmp_path), FLOAT)
    save_graph(model, tmp_path / "before.onnx")
    model = rewritten(round_early, model)
    onnx.checker.check_model(model, full_check=True)
    found = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert found == ["x", *CASES[name][2]]
    save_graph(model, tmp_path / "after.onnx")
    before, after = (
        GraphSession(tmp_path / f"{part}.onnx", optimize=False).run({"x": normal(20, 1, 3, 8, 8)})
        for part in ("before", "after")
    )
    for made, values in before.items():
        np.testing.assert_array_equal(after[made], values)
        assert np.abs(values).max() > 0
