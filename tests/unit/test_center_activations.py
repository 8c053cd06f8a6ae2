"""Offsets move into the biases around a tensor where the network stays the same, and only there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from graphs import network, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import hash_of

from sandglass.core.errors import PlanError
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import facts
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan, repaired_plan
from sandglass.quantization.channel_offsets import OffsetTensors, offset_tensors
from sandglass.quantization.edits import ShiftChannels, apply_edits
from sandglass.quantization.edits_file import arrays_of, save_arrays
from sandglass.quantization.output_noise import noise, only, run
from sandglass.quantization.plan import Plan
from sandglass.quantization.qdq import activation_scale
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec

C = "c = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)"
ONE = "e = Conv<pads = [1, 1, 1, 1]>(image, one, onebias)"
WEIGHTS = {
    "w1": normal(1, 8, 3, 3, 3), "b1": normal(2, 8), "w2": normal(3, 8, 8, 1, 1), "b2": normal(4, 8),
    "w3": normal(5, 8, 8, 1, 1), "b3": normal(6, 8), "w9": normal(7, 5, 8, 1, 1), "b9": normal(8, 5),
    "wide": normal(9, 5, 8, 3, 3), "deep": normal(10, 8, 1, 3, 3), "group": normal(11, 8, 4, 2, 2),
    "up": normal(12, 8, 8, 4, 4), "deepup": normal(13, 8, 1, 4, 4), "groupup": normal(14, 8, 4, 2, 2),
    "one": normal(15, 1, 3, 3, 3), "onebias": normal(16, 1), "k": normal(17, 1, 8, 1, 1),
    "five": normal(20, 5, 5, 1, 1), "full": normal(21, 8, 8, 3, 3),
    "low": np.array(-1), "zero": np.array(0), "six": np.array(6),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network as text, the tensors that can be centred, its outputs beside y, and what padding would keep."""

    text: str
    linear: set[str] = field(default_factory=set)
    clamped: set[str] = field(default_factory=set)
    outputs: tuple[str, ...] = ()
    padded: set[str] = field(default_factory=set)


CASES = {
    "pointwise": Case(f"{C} y = Conv(c, w9, b9)", {"c"}),
    "without biases": Case("c = Conv(image, w1) y = Conv(c, w9)", {"c"}),
    "unpadded": Case(f"{C} y = Conv(c, wide, b9)", {"c"}),
    "strides and holes": Case(f"{C} y = Conv<strides = [2, 2], dilations = [2, 2]>(c, wide)", {"c"}),
    "padded": Case(f"{C} y = Conv<pads = [1, 1, 1, 1]>(c, wide, b9)"),
    "padded on one side": Case(f"{C} y = Conv<pads = [0, 0, 0, 1]>(c, wide, b9)"),
    "padded by its name": Case(f'{C} y = Conv<auto_pad = "SAME_UPPER">(c, wide, b9)'),
    "depthwise": Case(f"{C} d = Conv<group = 8>(c, deep) y = Conv(d, w9, b9)", {"c", "d"}),
    "padded depthwise": Case(f"{C} d = Conv<group = 8, pads = [1, 1, 1, 1]>(c, deep) y = Conv(d, w9, b9)", {"d"}),
    "grouped": Case(f"{C} d = Conv<group = 2>(c, group, b2) y = Conv(d, w9)", {"c", "d"}),
    "transposed": Case(f"{C} t = ConvTranspose<strides = [2, 2]>(c, up, b2) y = Conv(t, w9)", {"t"}),
    "depthwise transposed": Case(
        f"{C} t = ConvTranspose<strides = [2, 2], group = 8>(c, deepup) y = Conv(t, w9)", {"t"}),
    "grouped transposed": Case(f"{C} t = ConvTranspose<group = 2>(c, groupup) y = Conv(t, w9)", {"t"}),
    "relu": Case(f"{C} r = Relu(c) y = Conv(r, w9, b9)", set(), {"r"}),
    "relu after no bias": Case("c = Conv(image, w1) r = Relu(c) y = Conv(r, wide)", set(), {"r"}),
    "relu after a transposed": Case(
        "c = Conv(image, w1) t = ConvTranspose(c, up) r = Relu(t) y = Conv(r, w9)", set(), {"r"}),
    "relu and padding": Case(f"{C} r = Relu(c) y = Conv<pads = [1, 1, 1, 1]>(r, wide)", padded={"r"}),
    "relu6 and uneven padding": Case(
        f"{C} r = Clip(c, zero, six) y = Conv<pads = [1, 0, 2, 3]>(r, wide, b9)", padded={"r"}),
    "relu and padding by its name": Case(f'{C} r = Relu(c) y = Conv<auto_pad = "SAME_UPPER">(r, wide, b9)'),
    "relu and padded depthwise": Case(
        f"{C} r = Relu(c) d = Conv<group = 8, pads = [1, 1, 1, 1]>(r, deep) y = Conv(d, w9, b9)", {"d"}, padded={"r"}),
    "relu of a sum": Case(f"{C} d = Conv(c, w2) s = Add(c, d) r = Relu(s) y = Conv(r, w9)", {"c"}, {"r"}),
    "relu in a sum": Case(f"{C} r = Relu(c) d = Conv(r, w2) s = Add(r, d) y = Conv(s, w9)", {"s"}, {"r"}),
    "relu of a sum without a free term": Case(
        f"{C} d = Conv(c, w2) e = Conv(d, w3) s = Add(c, d) r = Relu(s) f = Conv(r, w3) t = Add(e, f) y = Conv(t, w9)",
        {"t"}),
    "relus of residuals": Case(
        f"{C} a = Relu(c) d = Conv<pads = [0, 0, 0, 0]>(a, w2) s = Add(a, d) r = Relu(s) e = Conv(r, w3, b3) "
        "t = Add(r, e) q = Relu(t) f = Conv<pads = [1, 1, 1, 1]>(q, wide) g = Conv(q, w9) y = Conv(g, five)",
        {"g"}, {"a", "r"}, padded={"q"}),
    "sum of relus": Case(f"{C} d = Conv(c, w2) r = Relu(c) q = Relu(d) s = Add(r, q) y = Conv(s, w9)", set(), {"s"}),
    "branches of an hourglass": Case(
        f"{C} r = Relu(c) p = MaxPool<kernel_shape = [1, 1]>(image) d = Conv<pads = [1, 1, 1, 1]>(p, w1) q = Relu(d) "
        "u = Identity(q) s = Add(r, u) f = Conv<pads = [1, 1, 1, 1]>(s, full) t = Add(s, f) y = Conv(t, w9)",
        {"t"}, padded={"s"}),
    "relus of which one is centred": Case(
        f"{C} d = Conv<pads = [1, 1, 1, 1]>(image, w1) r = Relu(c) q = Relu(d) e = Conv(q, w3) s = Add(r, q) "
        "f = Conv(s, w9) g = Conv(e, w9) y = Add(f, g)", {"e", "s"}, {"q"}),
    "a relu twice": Case(f"{C} r = Relu(c) s = Add(r, r) y = Conv(s, w9)", {"s"}),
    "sum of relus that is the output too": Case(
        f"{C} d = Conv(c, w2) r = Relu(c) q = Relu(d) s = Add(r, q) y = Conv(s, w9)", outputs=("s",)),
    "relu that another reads too": Case(f"{C} r = Relu(c) n = Neg(r) d = Conv(r, w9) e = Conv(n, w9) y = Add(d, e)"),
    "relu beside another reader": Case(f"{C} r = Relu(c) d = Conv(r, w9) e = Conv(c, w9) y = Add(d, e)"),
    "relu of the image": Case("r = Relu(image) y = Conv(r, w1)"),
    "sigmoid": Case(f"{C} r = Sigmoid(c) y = Conv(r, w9, b9)"),
    "relu6": Case(f"{C} r = Clip(c, zero, six) y = Conv(r, w9, b9)", set(), {"r"}),
    "clip from below 0": Case(f"{C} r = Clip(c, low, six) y = Conv(r, w9)", set(), {"r"}),
    "clip without an end": Case(f"{C} r = Clip(c, zero, ) y = Conv(r, w9)", set(), {"r"}),
    "clip without a start": Case(f"{C} r = Clip(c, , six) y = Conv(r, w9)", set(), {"r"}),
    "clip without bounds": Case(f"{C} r = Clip(c) y = Conv(r, w9)", set(), {"r"}),
    "clip at what is computed": Case(f"n = Neg(low) {C} r = Clip(c, zero, n) y = Conv(r, w9)"),
    "clips that share bounds": Case(
        f"{C} r = Clip(c, zero, six) d = Conv(r, w2) s = Clip(d, zero, six) y = Conv(s, w9)",
                                    set(), {"r", "s"}),
    "several readers": Case(f"{C} d = Conv(c, w9) e = Conv(c, w9, b9) y = Add(d, e)", {"c"}),
    "one reader with padding": Case(f"{C} d = Conv(c, w9) e = Conv<pads = [1, 1, 1, 1]>(c, wide) y = Add(d, e)"),
    "shared constants": Case(f"{C} d = Conv(c, w2, b1) e = Conv(d, w2, b1) r = Relu(e) f = Conv(r, w2) y = Conv(f, w9)",
                             {"c", "d", "f"}, {"r"}),
    "constants that others read": Case(f"{C} d = Conv(c, w2, b2) l = Mul(d, w2) y = Add(l, b2)", {"c"}),
    "computed bias": Case("n = Neg(b1) c = Conv(image, w1, n) y = Conv(c, w9)"),
    "computed bias of the reader": Case(f"{C} n = Neg(b9) y = Conv(c, w9, n)"),
    "residual": Case(f"{C} d = Conv(c, w2) s = Add(c, d) y = Conv(s, w9)", {"c", "s"}),
    "residual with a bias": Case(f"{C} d = Conv(c, w2, b2) s = Add(d, c) y = Conv(s, w9)", {"c", "s"}),
    "residual of padding": Case(f"{C} d = Conv(c, w2) e = Conv<group = 8, pads = [1, 1, 1, 1]>(d, deep) s = Add(c, e) "
                                "y = Conv(s, w9)", {"c", "s"}),
    "residuals": Case(f"{C} d = Conv(c, w2) s = Add(c, d) e = Conv(s, w3) r = Relu(e) f = Conv(r, w2) t = Add(s, f) "
                      "g = Conv(t, w3, b3) u = Add(t, g) y = Conv(u, w9)", {"c", "s", "t", "u"}, {"r"}),
    "residual that is the output": Case(f"{C} d = Conv(c, w2) y = Add(c, d)", {"c"}),
    "residual that padding reads": Case(
        f"{C} d = Conv(c, w2) s = Add(c, d) y = Conv<pads = [1, 1, 1, 1]>(s, wide)", {"c"}),
    "sum without a free term": Case(f"{C} d = Conv(c, w2) e = Conv(d, w3) s = Add(c, d) t = Add(s, e) y = Conv(t, w9)",
                                    {"c", "d", "t"}),
    "sum of what layers read": Case(f"{C} d = Conv(c, w2) e = Conv(d, w9) s = Add(c, d) f = Conv(s, w9) y = Add(e, f)",
                                    {"c", "d", "s"}),
    "sum without a free term as output": Case(f"{C} d = Conv(c, w2) e = Conv(d, w3) y = Add(c, d)", outputs=("e",)),
    "sum without a free term before a relu": Case(
        f"{C} d = Conv(c, w2) e = Conv(d, w3) s = Add(c, d) t = Add(s, e) r = Relu(t) y = Conv(r, w9)",
        {"c", "d"}, {"r"}),
    "twice the same": Case(f"{C} d = Conv(c, w9) s = Add(c, c) e = Conv(s, w9) y = Add(d, e)", {"c", "s"}),
    "sum with a constant": Case(f"{C} s = Add(c, k) y = Conv(s, w9)", {"s"}),
    "sum with the image": Case("a = Conv(image, thin) s = Add(a, image) y = Conv(s, w1)", {"s"}),
    "sum with one channel": Case(
        f"{C} {ONE} d = Conv(c, w9) s = Add(c, e) f = Conv(s, w9) y = Add(d, f)",
        {"c", "s"}),
    "sums of one channel": Case(
        f"{ONE} {C} d = Conv(e, lift) s = Add(c, e) t = Add(s, d) y = Conv(t, w9)",
        {"e", "t"}),
    "output": Case(f"{C} y = Conv(c, w9, b9)", outputs=("c",)),
    "clamped output": Case(f"{C} r = Relu(c) y = Conv(r, w9, b9)", outputs=("r",)),
    "output before the clamp": Case(f"{C} r = Relu(c) y = Conv(r, w9, b9)", outputs=("c",)),
    "sum and output": Case(f"{C} d = Conv(c, w2) s = Add(c, d) y = Conv(s, w9)", {"c"}, outputs=("s",)),
    "term and output": Case(f"{C} d = Conv(c, w2) s = Add(c, d) y = Conv(s, w9)", {"c", "s"}, outputs=("d",)),
}  # fmt: skip
# A sum whose terms are all read elsewhere is less by the offsets of its terms.
NOT_FREE = {("sum of what layers read", "s"), ("twice the same", "s"), ("sum with one channel", "s"),
            ("term and output", "s"), ("relus of which one is centred", "s"), ("a relu twice", "s")}  # fmt: skip


def built(case: Case) -> onnx.ModelProto:
    """The network of a case."""
    constants = {**WEIGHTS, "thin": normal(18, 3, 3, 1, 1), "lift": normal(19, 8, 1, 1, 1)}
    outputs = ", ".join(f"float[N{i}, C{i}, H{i}, W{i}] {name}" for i, name in enumerate(("y", *case.outputs)))
    return network(f"g (float[1, 3, 12, 8] image) => ({outputs}) {{ {case.text} }}", constants)


def images(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the networks."""
    return [{"image": normal(seed + i, 1, 3, 12, 8)} for i in range(count)]


def offsets_for(model: onnx.ModelProto, found: OffsetTensors, path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """An offset for each tensor that can be centred: for each channel, and one for a clamp's."""
    save_graph(model, path)
    names = [*found.linear, *found.clamped]
    values = GraphSession(path, outputs=names).run(images(1, 0)[0]) if names else {}
    sizes = {name: values[name].shape[1] if name in found.linear else 1 for name in names}
    return {name: normal(seed + i, size) for i, (name, size) in enumerate(sizes.items())}


def shifted(model: onnx.ModelProto, offsets: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A copy with its tensors less their offsets."""
    changed = ShiftChannels(offsets).apply(onnx.ModelProto.FromString(model.SerializeToString()), ())
    onnx.checker.check_model(changed, full_check=True)
    return changed


def assert_shifted(before: Path, after: Path, offsets: dict[str, np.ndarray], outputs: list[str]) -> None:
    """Outputs are the same but for float rounding, and every other tensor is less by its offset.

    What a Clip leaves has the rounding of the larger values that it cut off.
    """
    names = list(dict.fromkeys([*outputs, *offsets]))
    made = [node.output[0] for node in load_graph(before).graph.node]
    for inputs in images(2, 100):
        expected = inputs | GraphSession(before, outputs=made).run(inputs)
        found = GraphSession(after, outputs=names).run(inputs)
        sizes = np.maximum.accumulate([float(np.abs(expected[name]).max()) for name in made])
        largest = dict(zip(made, sizes, strict=True))
        for name in names:
            less = offsets[name].reshape(1, -1, 1, 1) if name in offsets else 0
            limit = 2e-6 * max(1.0, largest[name])
            np.testing.assert_allclose(found[name], expected[name] - less, rtol=0, atol=10 * limit, err_msg=name)


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_network_stays_the_same(name: str, pads: bool, tmp_path: Path) -> None:
    """All places at once: the outputs stay, each tensor is less by its offset, and what cannot be is no place."""
    case = CASES[name]
    model = built(case)
    found = offset_tensors(model, set(facts(model)), pads)
    clamped = case.clamped | (case.padded if pads else set())
    assert (set(found.linear), set(found.clamped)) == (case.linear, clamped)
    offsets = offsets_for(model, found, tmp_path / "before.onnx")
    save_graph(shifted(model, offsets), tmp_path / "after.onnx")
    told = {tensor: values for tensor, values in offsets.items() if (name, tensor) not in NOT_FREE}
    assert_shifted(tmp_path / "before.onnx", tmp_path / "after.onnx", told, ["y", *case.outputs])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.linear | case.clamped) > 1])
def test_each_place_can_be_centred_alone(name: str, tmp_path: Path) -> None:
    """Whichever of the places has an offset, it is that one that moves."""
    model = built(CASES[name])
    found = offset_tensors(model, set(facts(model)))
    for tensor, values in offsets_for(model, found, tmp_path / "before.onnx").items():
        save_graph(shifted(model, {tensor: values}), tmp_path / "after.onnx")
        told = {} if (name, tensor) in NOT_FREE else {tensor: values}
        assert_shifted(tmp_path / "before.onnx", tmp_path / "after.onnx", told, ["y", *CASES[name].outputs])


def test_only_what_a_layer_rounds_is_a_place() -> None:
    """Tensors that no int8 layer reads gain nothing."""
    model = built(CASES["residuals"])
    assert offset_tensors(model, set()) == OffsetTensors((), ())
    assert offset_tensors(model, {"g", "f"}) == OffsetTensors(("t",), ("r",))


def test_products_of_matrices_are_left_alone(tmp_path: Path) -> None:
    """What Gemm and MatMul read has no place, nor what they make, whoever reads it."""
    text = """g (float[1, 8, 6] x) => (float[N, C, L] y) {
        a = Conv(x, w1) m = MatMul(a, w2) c = Conv(m, w1, b) d = Conv(c, w1) y = MatMul(d, w2) }"""
    model = network(text, {"w1": normal(1, 8, 8, 1), "w2": normal(2, 6, 6), "b": normal(3, 8)})
    assert offset_tensors(model, set(facts(model))) == OffsetTensors(("c",), ())
    save_graph(model, tmp_path / "before.onnx")
    save_graph(shifted(model, {"c": normal(4, 8)}), tmp_path / "after.onnx")
    inputs = {"x": normal(5, 1, 8, 6)}
    expected, found = (GraphSession(tmp_path / f"{name}.onnx").run(inputs)["y"] for name in ("before", "after"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Layers, clamps and sums in any order, each reading what came before."""
    made, lines, pads = ["c"], [C], "pads = [1, 1, 1, 1]"
    for number in range(draw(st.integers(1, 8))):
        read, name = draw(st.sampled_from(made[-3:])), f"t{number}"
        kind = draw(st.sampled_from(["plain", "plain", "bias", "depthwise", "relu", "clip", "sum", "sum"]))
        lines.append({
            "plain": f"{name} = Conv({read}, w2)", "bias": f"{name} = Conv({read}, w3, b3)",
            "depthwise": f"{name} = Conv<group = 8, {pads}>({read}, deep)", "relu": f"{name} = Relu({read})",
            "clip": f"{name} = Clip({read}, zero, six)",
            "sum": f"{name} = Add({read}, {draw(st.sampled_from(made))})",
        }[kind])  # fmt: skip
        made.append(name)
    return " ".join([*lines, f"y = Conv({made[-1]}, w9, b9)"])


@settings(max_examples=20, deadline=None)
@given(networks(), st.integers(0, 1000), st.booleans())
def test_any_network_stays_the_same(text: str, seed: int, pads: bool) -> None:
    """However layers, clamps and sums follow one another: every place takes an offset and the output stays."""
    model = built(Case(text))
    found = offset_tensors(model, set(facts(model)), pads)
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        offsets = offsets_for(model, found, before, seed)
        save_graph(shifted(model, offsets), after)
        by_layers = {name: offsets[name] for name in offsets if name in facts(model) or name in found.clamped}
        assert_shifted(before, after, by_layers, ["y"])


SYMMETRIC, ASYMMETRIC = (Spec(("Conv",), asymmetric=asymmetric) for asymmetric in (False, True))
BLOCKS = (f"{C} r = Relu(c) d = Conv(r, w2, b2) q = Relu(d) e = Conv(q, w3, b3) f = Conv(e, w2) s = Add(e, f) "
          "y = Conv(s, w9, b9)")  # fmt: skip


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with results of clamps that can be centred, and sums."""
    path = tmp_path_factory.mktemp("centre") / "g.onnx"
    save_graph(built(Case(BLOCKS)), path)
    return path


def plan_for(graph: Path, spec: Spec, repairs: tuple[str, ...], scratch: Path, method: str = "minmax") -> Plan:
    """A plan with these repairs."""
    return repaired_plan.repaired_plan(graph, images(8, 0), spec, scratch, method, repairs)[0]


def error(graph: Path, plan: Plan, spec: Spec) -> float:
    """Noise of the simulated plan on images not seen."""
    held_out = images(8, 1000)
    return noise(run(GraphSession(graph), held_out), run(simulate(graph, plan, spec), held_out))


def test_symmetric_integers_gain_a_bit_after_a_relu(graph: Path, tmp_path: Path) -> None:
    """Half the step for what a ReLU leaves, from its threshold to its negative."""
    plain, centred = (plan_for(graph, SYMMETRIC, repairs, tmp_path) for repairs in ((), ("centre",)))
    assert set(centred.offsets) == {"r", "q", "e", "s"}
    for name in ("r", "q"):
        before, after = plain.tensors[name], centred.tensors[name]
        assert before.minimum == 0
        assert centred.offsets[name] == pytest.approx(before.threshold / 2)
        steps = [activation_scale(found, asymmetric=False)[0] for found in (before, after)]
        assert steps[1] == pytest.approx(steps[0] / 2)
        assert (after.minimum, after.maximum) == pytest.approx((-after.threshold, after.threshold))


def on_the_grid(weight: np.ndarray) -> np.ndarray:
    """Weights that int8 holds exactly: integers whose largest in each output channel is 127."""
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    return np.round(weight / largest * 127) / 127


@pytest.mark.parametrize("clamp", ["Relu(c)", "Clip(c, zero, )", "Clip(c, zero, high)"])
def test_half_the_step_is_a_quarter_of_the_noise(clamp: str, tmp_path: Path) -> None:
    """Where activations after a clamp alone are rounded: 6 dB, as much as a zero point gives."""
    text = f"g (float[1, 3, 12, 8] image) => (float[1, 5, 12, 8] y) {{ {C} r = {clamp} y = Conv(r, w9, b9) }}"
    used = {**WEIGHTS, "w9": on_the_grid(WEIGHTS["w9"]), "high": np.array(1e4)}
    model = network(text, {name: values for name, values in used.items() if name in text})
    save_graph(model, tmp_path / "g.onnx")
    found = {}
    for spec, repairs in ((SYMMETRIC, ()), (SYMMETRIC, ("centre",)), (ASYMMETRIC, ())):
        plan = plan_for(tmp_path / "g.onnx", spec, repairs, tmp_path)
        found[spec.asymmetric, repairs] = error(tmp_path / "g.onnx", only(plan, ["y"]), spec)
    plain, centred, asymmetric = found.values()
    assert 0.15 < centred / plain < 0.35
    assert 0.7 < centred / asymmetric < 1.4


def test_zero_points_need_no_offset_after_a_clamp(graph: Path, tmp_path: Path) -> None:
    """A target with zero points has them for clamps: only what is linear is centred."""
    centred = plan_for(graph, ASYMMETRIC, ("centre",), tmp_path)
    assert set(centred.offsets) == {"e", "s"}
    symmetric = centred.tensors["e"]
    assert symmetric.minimum <= 0 <= symmetric.maximum
    assert symmetric.threshold == plan_for(graph, SYMMETRIC, ("centre",), tmp_path).tensors["e"].threshold


def test_channels_of_linear_tensors_are_centred(graph: Path, tmp_path: Path) -> None:
    """Each channel's range lies around 0 on the calibration set, in the network that the plan is rounded from."""
    plan = plan_for(graph, ASYMMETRIC, ("centre",), tmp_path)
    save_graph(apply_edits(load_graph(graph), plan.edits, []), tmp_path / "repaired.onnx")
    session = GraphSession(tmp_path / "repaired.onnx", outputs=["e", "s"])
    values = [session.run(batch) for batch in images(8, 0)]
    for name in ("e", "s"):
        low, high = (np.min([sign * value[name] for value in values], axis=(0, 1, 3, 4)) for sign in (1, -1))
        np.testing.assert_allclose(low, high, atol=1e-5 * float(np.abs(low).max()))


@pytest.mark.parametrize("method", ["minmax", "kl"])
@pytest.mark.parametrize("spec", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
def test_network_in_float_is_the_same_after_all_repairs(spec: Spec, method: str, graph: Path, tmp_path: Path) -> None:
    """All repairs together, every layer in float: what is left is float rounding."""
    plan = plan_for(graph, spec, repair_names(), tmp_path, method)
    assert plan.offsets
    save_graph(apply_edits(load_graph(graph), plan.edits, []), tmp_path / "repaired.onnx")
    for inputs in images(2, 1000):
        expected, found = (GraphSession(path).run(inputs)["y"] for path in (graph, tmp_path / "repaired.onnx"))
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(np.abs(expected).max()))


def test_offsets_are_saved_with_the_plan(graph: Path, tmp_path: Path) -> None:
    """They read back to the last bit, and the plan is not taken with others or without them."""
    plan = plan_for(graph, SYMMETRIC, repair_names(), tmp_path)
    plan.save(tmp_path / "plan.json")
    again = make_plan.load_plan(tmp_path / "plan.json", graph)
    assert again.sha256 == plan.sha256
    assert {name: values.tobytes() for name, values in again.offsets.items()} == {
        name: values.tobytes() for name, values in plan.offsets.items()
    }
    assert error(graph, again, SYMMETRIC) == error(graph, plan, SYMMETRIC)
    alone = plan_for(graph, SYMMETRIC, ("centre",), tmp_path)
    assert not alone.rounded
    alone.save(tmp_path / "alone.json")
    assert hash_of(Plan.load(tmp_path / "alone.json")) == hash_of(alone) != ""
    save_arrays(arrays_of(plan.edits), tmp_path / "alone.safetensors")
    with pytest.raises(PlanError, match="does not match the arrays"):
        Plan.load(tmp_path / "alone.json")
