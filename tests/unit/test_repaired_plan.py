"""Repairs before rounding: what is in the plan is what runs, and it is better than without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten
from onnx import numpy_helper
from plans import hash_of
from safetensors.numpy import save_file

from sandglass.core.errors import DatasetError, PlanError
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.layers import facts
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan, repaired_plan
from sandglass.quantization.edits import apply_edits
from sandglass.quantization.edits_file import arrays_of, save_arrays
from sandglass.quantization.output_noise import integer_layers, noise, run, without
from sandglass.quantization.plan import Plan
from sandglass.quantization.qdq import quantize_dequantize, weight_scales
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec

ALL = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SPECS = {
    "asymmetric": Spec(ALL, asymmetric=True),
    "symmetric": Spec(ALL, asymmetric=False),
    "integers flow": Spec(("Conv", "Gemm", "MatMul"), asymmetric=True, between=("Add", "Resize")),
    "7 bits": Spec(ALL, asymmetric=True, bits=lambda layer: (7,)),
}
UNEVEN = """g (float[1, 3, 16, 12] image) => (float[1, 8, 16, 12] y) {
    c1 = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<group = 8, pads = [1, 1, 1, 1]>(r1, w2)
    r2 = Clip(c2, zero, high)
    c3 = Conv(r2, w3, b3)
    r3 = Relu(c3)
    c4 = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>(r3, w4, b4)
    r4 = Relu(c4)
    c5 = Conv<group = 2, pads = [1, 1, 1, 1]>(r4, w5)
    r5 = Relu(c5)
    c6 = Conv(r5, w6, b6)
    c7 = Conv(c6, w6, b6)
    y = Add(c6, c7) }"""
# Channels differ in range, and what reads them makes up for it: all count the same, as channels do after training.
S8, S16 = np.geomspace(1 / 50, 1, 8, dtype=np.float32), np.geomspace(1, 1 / 50, 16, dtype=np.float32)
COLUMN = (-1, 1, 1, 1)
WEIGHTS = {
    "w1": normal(1, 8, 3, 3, 3) * S8.reshape(COLUMN) / 4, "b1": normal(2, 8) * S8, "w2": normal(3, 8, 1, 3, 3) / 2,
    "w3": normal(4, 16, 8, 1, 1) / S8[:, None, None] * S16.reshape(COLUMN) / 3, "b3": normal(5, 16) * S16,
    "w4": normal(6, 16, 8, 4, 4) / S16.reshape(COLUMN) / 8, "b4": normal(7, 8), "w5": normal(8, 8, 4, 3, 3) / 4,
    "w6": normal(9, 8, 8, 1, 1) / 3, "b6": normal(10, 8), "zero": np.float32(0), "high": np.float32(1e4),
}  # fmt: skip
LAYERS = ["c1", "c2", "c3", "c4", "c5", "c6", "c7"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with uneven channels, all kinds of convolutions, and two layers that share their constants."""
    path = tmp_path_factory.mktemp("repair") / "uneven.onnx"
    save_graph(network(UNEVEN, WEIGHTS), path)
    return path


def images(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of that network."""
    return [{"image": normal(seed + i, 1, 3, 16, 12)} for i in range(count)]


def plan_for(
    graph: Path, spec: str, scratch: Path, repairs: tuple[str, ...] = repair_names(), method: str = "minmax"
) -> Plan:
    """The plan of the network after repairs."""
    scratch.mkdir(exist_ok=True)
    return repaired_plan.repaired_plan(graph, images(6, 0), SPECS[spec], scratch, method, repairs)[0]


@pytest.fixture(scope="module")
def plans(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """The plan for each spec, all repairs made."""
    folder = tmp_path_factory.mktemp("plans")
    return {name: plan_for(graph, name, folder / name) for name in SPECS}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Initializers by name."""
    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def read_by(model: onnx.ModelProto, layer: str) -> list[np.ndarray]:
    """The weight of a layer, and its bias where it has one."""
    known = constants(model)
    (node,) = [node for node in model.graph.node if node.name == layer]
    return [known[name] for name in node.input[1:]]


def evened(graph: Path, plan: Plan) -> onnx.ModelProto:
    """The float network with its channels evened out and centred, and nothing rounded."""
    return apply_edits(load_graph(graph), plan.edits, ())


def error(graph: Path, plan: Plan, spec: Spec) -> float:
    """Noise of the simulated plan on held-out images."""
    held_out = images(8, 1000)
    return noise(run(GraphSession(graph), held_out), run(simulate(graph, plan, spec), held_out))


@pytest.mark.parametrize("name", SPECS)
def test_rounding_gives_the_very_integers_of_the_plan(name: str, plans: dict[str, Plan], graph: Path) -> None:
    """Weights lie on their grid: a graph in QDQ form has the plan's integers and scales, whatever the layer."""
    plan, spec = plans[name], SPECS[name]
    integer = integer_layers(graph, plan, spec)
    assert integer == [layer for layer in LAYERS if layer != "c4" or "ConvTranspose" in spec.operators]
    model = apply_edits(load_graph(graph), plan.edits, integer)
    onnx.checker.check_model(model, full_check=True)
    for layer in integer:
        expected = plan.rounded[layer]
        np.testing.assert_array_equal(read_by(model, layer)[1], expected.bias)
    found = constants(rewritten(quantize_dequantize, model, plan, spec))
    for layer in integer:
        expected = plan.rounded[layer]
        np.testing.assert_array_equal(found[f"{layer}.weight.q"], expected.integers, layer)
        np.testing.assert_array_equal(found[f"{layer}.weight.scale"], expected.scales, layer)
        assert expected.levels <= 2 ** (spec.bits(facts(load_graph(graph))[layer])[0] - 1) - 1


@pytest.mark.parametrize("name", SPECS)
def test_layer_that_is_given_back_has_its_own_weights(name: str, plans: dict[str, Plan], graph: Path) -> None:
    """A layer in float, by the plan or by the target, has the evened out weights, which nothing rounded."""
    plan = without(plans[name], {"c1": "by hand", "c4": "by hand", "c6": "by hand"})
    integer = integer_layers(graph, plan, SPECS[name])
    assert integer == ["c2", "c3", "c5", "c7"]
    model = apply_edits(load_graph(graph), plan.edits, integer)
    scaled = evened(graph, plan)
    for layer in LAYERS:
        same = [np.array_equal(a, b) for a, b in zip(read_by(model, layer), read_by(scaled, layer), strict=False)]
        assert all(same) if layer in ("c1", "c4", "c6") else not any(same), layer


def test_network_in_float_is_the_same(plans: dict[str, Plan], graph: Path, tmp_path: Path) -> None:
    """With every layer given back, repairs change nothing but float rounding."""
    model = apply_edits(load_graph(graph), plans["asymmetric"].edits, [])
    save_graph(model, tmp_path / "float.onnx")
    assert plans["asymmetric"].offsets
    for inputs in images(3, 1000):
        expected = GraphSession(graph).run(inputs)["y"]
        found = GraphSession(tmp_path / "float.onnx").run(inputs)["y"]
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(np.abs(expected).max()))


def test_plan_reads_back_with_its_arrays(plans: dict[str, Plan], graph: Path, tmp_path: Path) -> None:
    """A saved plan fits its graph and is the same plan, to the last integer; without repairs there is one file."""
    plan = plans["asymmetric"]
    plan.save(tmp_path / "plan.json")
    again = make_plan.load_plan(tmp_path / "plan.json", graph)
    assert again.sha256 == plan.sha256
    assert again.repairs == plan.repairs == repair_names()
    assert replace(again, edits=plan.edits) == plan
    assert {name: values.tolist() for name, values in again.offsets.items()} == {
        name: values.tolist() for name, values in plan.offsets.items()
    }
    assert set(again.rounded) == set(plan.rounded) == set(LAYERS)
    for name, expected in plan.rounded.items():
        for field in ("integers", "scales", "bias"):
            found = getattr(again.rounded[name], field)
            np.testing.assert_array_equal(found, getattr(expected, field))
            assert found.dtype == getattr(expected, field).dtype
    plain = make_plan.make_plan(graph, images(2, 0), "minmax")
    plain.save(tmp_path / "plain.json")
    assert make_plan.load_plan(tmp_path / "plain.json", graph).sha256 == plain.sha256
    assert not (tmp_path / "plain.safetensors").exists()


def test_plan_of_the_first_version_is_read_without_repairs(plans: dict[str, Plan], graph: Path, tmp_path: Path) -> None:
    """Format 1 has no list of edits: a plain plan is read, one with repairs has to be made again."""
    for plan, arrays in ((make_plan.make_plan(graph, images(2, 0), "minmax"), False), (plans["asymmetric"], True)):
        plan.save(tmp_path / "plan.json")
        data = json.loads((tmp_path / "plan.json").read_text())
        first = {key: value for key, value in data.items() if key != "edits"} | {"format": 1}
        (tmp_path / "plan.json").write_text(json.dumps(first))
        if arrays:
            with pytest.raises(PlanError, match=r"repairs of sandglass 0\.1\.0"):
                Plan.load(tmp_path / "plan.json")
        else:
            assert make_plan.load_plan(tmp_path / "plan.json", graph).sha256 == plan.sha256


def test_plan_without_its_own_arrays_is_refused(plans: dict[str, Plan], tmp_path: Path) -> None:
    """Arrays that are missing, cut off, of another plan, one number off, or of no plan at all."""
    plan, path, arrays = plans["asymmetric"], tmp_path / "plan.json", tmp_path / "plan.safetensors"
    plan.save(path)
    whole = arrays.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        arrays.write_bytes(whole[:length])
        with pytest.raises(PlanError, match=r"cannot read the plan's arrays in .*plan\.safetensors"):
            Plan.load(path)
    save_arrays(arrays_of(plans["symmetric"].edits), arrays)
    with pytest.raises(PlanError, match="does not match the arrays"):
        Plan.load(path)
    arrays.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PlanError, match="does not match the arrays"):
        Plan.load(path)
    for foreign in ({"conv.weight": normal(0, 4)}, {"integers:c1": normal(0, 4)}, {"bits:c1": normal(0, 4)}, {}):
        save_file(foreign, arrays)
        with pytest.raises(PlanError, match="does not match the arrays"):
            Plan.load(path)
    arrays.unlink()
    with pytest.raises(PlanError, match=r"the plan needs .*plan\.safetensors, which does not exist"):
        Plan.load(path)
    data = json.loads(path.read_text())
    arrays.write_bytes(whole)
    path.write_text(json.dumps({**data, "arrays": "0" * 64}))
    with pytest.raises(PlanError, match="does not match the arrays"):
        Plan.load(path)


def test_edited_plan_keeps_its_arrays(plans: dict[str, Plan], graph: Path, tmp_path: Path) -> None:
    """A layer that is kept in float by hand, in the file: the rest of the repairs stays."""
    plans["asymmetric"].save(tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    data["layers"]["c5"]["keep_float"] = True
    (tmp_path / "plan.json").write_text(json.dumps(data))
    edited = make_plan.load_plan(tmp_path / "plan.json", graph)
    assert hash_of(edited) == hash_of(plans["asymmetric"])
    assert "c5" not in integer_layers(graph, edited, SPECS["asymmetric"])
    assert error(graph, edited, SPECS["asymmetric"]) < error(graph, plans["asymmetric"], SPECS["asymmetric"])


@pytest.mark.parametrize("name", SPECS)
def test_repairs_make_the_network_better(name: str, plans: dict[str, Plan], graph: Path, tmp_path: Path) -> None:
    """The simulated error on images not seen is smaller, or about the same, and far smaller without zero points."""
    plain = plan_for(graph, name, tmp_path, ())
    most = 0.8 if name == "symmetric" else 1.05
    assert error(graph, plans[name], SPECS[name]) < most * error(graph, plain, SPECS[name])


def test_without_repairs_the_plan_is_the_plain_one(graph: Path, tmp_path: Path) -> None:
    """No repair, no arrays: the same plan as `make_plan` makes."""
    plain = make_plan.make_plan(graph, images(6, 0), "minmax")
    assert plan_for(graph, "asymmetric", tmp_path, ()).sha256 == plain.sha256


@pytest.mark.parametrize("left_out", repair_names())
def test_every_repair_can_be_left_out(left_out: str, graph: Path, tmp_path: Path) -> None:
    """What is left out is not done, what is done is recorded, and the plan still runs."""
    repairs = tuple(name for name in repair_names() if name != left_out)
    plan = plan_for(graph, "asymmetric", tmp_path, repairs, "kl")
    assert plan.repairs == repairs
    assert json.loads(plan.to_json())["repairs"] == list(repairs)
    before = tuple(name for name in ("centre",) if name != left_out)
    even = plan_for(graph, "asymmetric", tmp_path, before, "kl")
    scaled = evened(graph, plan)
    known = facts(scaled)
    assert bool(plan.offsets) == (left_out != "centre")
    assert (plan.tensors == even.tensors) == (left_out == "output thresholds")
    nearest, kept = [], []
    for name, rounded in plan.rounded.items():
        weight, *bias = read_by(scaled, name)
        steps = weight_scales(weight, known[name].axis)
        shape = [-1 if i == known[name].axis else 1 for i in range(weight.ndim)]
        nearest.append(np.array_equal(rounded.integers, np.round(weight / steps.reshape(shape))))
        kept.append(np.array_equal(rounded.bias, bias[0] if bias else np.zeros_like(rounded.bias)))
    assert len(nearest) == len(LAYERS)
    assert all(nearest) if left_out == "compensated rounding" else not any(nearest)
    assert all(kept) if left_out == "bias correction" else not any(kept)
    assert error(graph, plan, SPECS["asymmetric"]) < 0.1


@pytest.mark.parametrize("name", repair_names())
def test_every_repair_works_alone(name: str, graph: Path, tmp_path: Path) -> None:
    """One repair alone runs, is recorded, and does not make the network worse to speak of."""
    plan, plain = (plan_for(graph, "asymmetric", tmp_path, given) for given in ((name,), ()))
    assert plan.repairs == (name,)
    assert error(graph, plan, SPECS["asymmetric"]) < 1.05 * error(graph, plain, SPECS["asymmetric"])


def test_repairs_come_in_their_own_order(graph: Path, tmp_path: Path) -> None:
    """However they are listed, the plan is the same; and twice the same, though many threads round it."""
    first, second = (plan_for(graph, "asymmetric", tmp_path, given) for given in (repair_names(), repair_names()[::-1]))
    assert first.sha256 == second.sha256


def test_layer_may_ask_for_fewer_bits_later(plans: dict[str, Plan], graph: Path) -> None:
    """An edit to 6 bits rounds a layer's weights again, with scales of their own; the others stay."""
    plan = plans["asymmetric"]
    edited = replace(plan, layers={**plan.layers, "c3": replace(plan.layers["c3"], weight_bits=6)})
    spec = SPECS["asymmetric"]
    found = constants(
        rewritten(quantize_dequantize, apply_edits(load_graph(graph), edited.edits, LAYERS), edited, spec)
    )
    assert np.abs(found["c3.weight.q"]).max() == 31
    np.testing.assert_array_equal(found["c1.weight.q"], plan.rounded["c1"].integers)


def test_target_may_have_fewer_bits_than_the_plan(plans: dict[str, Plan], graph: Path) -> None:
    """A plan of 8 bits on a processor whose sums hold 7: all weights are rounded again, and none is beyond 63."""
    plan, spec = plans["asymmetric"], SPECS["7 bits"]
    found = constants(rewritten(quantize_dequantize, apply_edits(load_graph(graph), plan.edits, LAYERS), plan, spec))
    assert [int(np.abs(found[f"{name}.weight.q"]).max()) for name in LAYERS] == [63] * len(LAYERS)
    assert error(graph, plan, spec) < 0.01


def test_material_rounds_single_layers_again(graph: Path, tmp_path: Path) -> None:
    """With the bits of the plan that gives the plan's integers, with fewer it gives fewer levels."""
    spec = SPECS["asymmetric"]
    plan, material = repaired_plan.repaired_plan(graph, images(6, 0), spec, tmp_path, "minmax")
    same, fewer = (material.round(plan, "c3", bits, repair_names()) for bits in (8, 6))
    np.testing.assert_array_equal(same.integers, plan.rounded["c3"].integers)
    assert fewer.levels <= 31


def test_matrices_are_repaired(tmp_path: Path) -> None:
    """Gemm with biases of any shape, and MatMul, which has none: the plan's integers, in a graph that runs."""
    text = """g (float[1, 24] x) => (float[N] y) {
        g1 = Gemm(x, w1, b1) r1 = Relu(g1) g2 = Gemm<transB = 1>(r1, w2, b2) r2 = Relu(g2)
        m = MatMul(r2, w3) g3 = Gemm(m, w4) y = Gemm(g3, w4, b4) }"""
    weights = {"w1": normal(1, 24, 16), "b1": normal(2, 1, 16), "w2": normal(3, 16, 16), "b2": normal(4, 1),
               "w3": normal(5, 16, 16), "w4": normal(6, 16, 16), "b4": normal(7, 16)}  # fmt: skip
    save_graph(network(text, weights), tmp_path / "g.onnx")
    batches = [{"x": normal(100 + i, 1, 24)} for i in range(64)]
    for name in ("asymmetric", "symmetric", "integers flow"):
        spec = SPECS[name]
        plan, _ = repaired_plan.repaired_plan(tmp_path / "g.onnx", batches, spec, tmp_path, "minmax")
        model = apply_edits(load_graph(tmp_path / "g.onnx"), plan.edits, plan.layers)
        found = constants(rewritten(quantize_dequantize, model, plan, spec))
        assert set(plan.rounded) == {"g1", "g2", "m", "g3", "y"}
        for layer, expected in plan.rounded.items():
            np.testing.assert_array_equal(found[f"{layer}.weight.q"], expected.integers, layer)
        assert error_of(tmp_path / "g.onnx", plan, spec, [{"x": normal(i, 1, 24)} for i in range(20)]) < 0.01


def error_of(graph: Path, plan: Plan, spec: Spec, batches: list[dict[str, np.ndarray]]) -> float:
    """Noise of the simulated plan."""
    return noise(run(GraphSession(graph), batches), run(simulate(graph, plan, spec), batches))


def test_empty_calibration_set_is_refused(graph: Path, tmp_path: Path) -> None:
    """No batch, no ranges, whatever the repairs."""
    for repairs in ((), repair_names()):
        with pytest.raises(DatasetError, match="calibration set is empty"):
            repaired_plan.repaired_plan(graph, [], SPECS["asymmetric"], tmp_path, "minmax", repairs)


def test_nan_activation_is_named(graph: Path, tmp_path: Path) -> None:
    """A calibration input that makes NaN is refused, whatever the repairs, and named."""
    bad = [*images(1, 0), {"image": np.full((1, 3, 16, 12), np.nan, np.float32)}]
    for repairs in ((), repair_names()):
        with pytest.raises(PlanError, match="tensor image is NaN or infinite on calibration sample 1"):
            repaired_plan.repaired_plan(graph, bad, SPECS["asymmetric"], tmp_path, "minmax", repairs)


def test_dead_network_is_repaired_without_harm(graph: Path, tmp_path: Path) -> None:
    """Images that are all 0, and so layers that stay in float; the plan has only finite numbers."""
    black = [{"image": np.zeros((1, 3, 16, 12), np.float32)}] * 2
    for spec in SPECS.values():
        plan, _ = repaired_plan.repaired_plan(graph, black, spec, tmp_path, "minmax")
        assert plan.layers["c1"].keep_float
        assert "c1" not in plan.rounded
        for values in plan.rounded.values():
            assert np.isfinite(values.bias).all()
        assert all(np.isfinite(values).all() for values in run(simulate(graph, plan, spec), images(1, 0))[0].values())
