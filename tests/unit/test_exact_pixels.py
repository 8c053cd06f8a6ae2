"""Images rounded on their own levels: found in the data, put into the network, and exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten
from onnx import numpy_helper
from plans import pixels, unrounded

from sandglass.core.errors import PlanError
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan, repaired_plan
from sandglass.quantization.edits import ReadBytes, apply_edits
from sandglass.quantization.layer_rounding import round_input
from sandglass.quantization.output_noise import only
from sandglass.quantization.qdq import activation_scale, quantize_dequantize
from sandglass.quantization.repairs import exact_pixels
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec

MEAN, DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
ASYMMETRIC = Spec(("Conv",), asymmetric=True)
SYMMETRIC = Spec(("Conv",), asymmetric=False, pads=True)
FLOWS = Spec(("Conv",), asymmetric=True, between=("Add",))
TEXT = """g (float[1, 3, 16, 12] image) => (float[1, 4, 16, 12] y) {
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
    c2 = Conv(image, w2)
    c3 = Conv<group = 3>(image, w3)
    c4 = Conv(c3, w4)
    s = Add(c1, c2)
    y = Add(s, c4) }"""
WEIGHTS = {
    "w1": normal(1, 4, 3, 3, 3), "b1": normal(2, 4), "w2": normal(3, 4, 3, 1, 1),
    "w3": normal(4, 3, 1, 1, 1), "w4": normal(5, 4, 3, 1, 1),
}  # fmt: skip
MOVED = {"c1", "c2"}  # a grouped convolution reads the input as it is


def images(count: int, seed: int = 0, low: int = 0, high: int = 255) -> list[np.ndarray]:
    """Bytes (1, 3, 16, 12), all levels from `low` to `high` among them."""
    random = np.random.default_rng(seed)
    found = random.integers(low, high + 1, (count, 1, 3, 16, 12)).astype(np.uint8)
    found[0].reshape(3, -1)[:, :2] = low, high
    return list(found)


def normalized(images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What the network is given of images."""
    column = (1, 3, 1, 1)
    return [
        {"image": ((image - MEAN.reshape(column)) / DEVIATION.reshape(column)).astype(np.float32)} for image in images
    ]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A network that reads its input in three layers, two of which can read bytes."""
    path = tmp_path / "small.onnx"
    save_graph(network(TEXT, WEIGHTS), path)
    return path


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    """The same with layers that pad their input alike."""
    path = tmp_path / "alike.onnx"
    text = TEXT.replace("Conv(image, w2)", "Conv<pads = [1, 1, 1, 1]>(image, w2)")
    save_graph(network(text, {**WEIGHTS, "w2": normal(3, 4, 3, 3, 3)}), path)
    return path


def planned(graph: Path, spec: Spec = ASYMMETRIC) -> repaired_plan.Plan:
    """The plan of the network with its pixels exact, and nothing else repaired."""
    return repaired_plan.repaired_plan(graph, normalized(images(24)), spec, graph.parent, "minmax", ["exact pixels"])[0]


def test_levels_are_the_normalization() -> None:
    """Steps and zeros follow from the data alone: they are the deviation's reciprocals, and the mean."""
    steps, zeros = exact_pixels.levels(normalized(images(24)), "image") or (np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(steps, 1 / DEVIATION, rtol=1e-5)
    np.testing.assert_allclose(zeros, MEAN, atol=1e-2)


def test_levels_that_nothing_was_seen_of_are_shared_by_both_ends() -> None:
    """Where calibration has neither black nor white there is as much room below as above."""
    steps, zeros = exact_pixels.levels(normalized(images(24, low=40, high=195)), "image") or (np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(steps, 1 / DEVIATION, rtol=1e-5)
    np.testing.assert_allclose(zeros, MEAN + 50 - 40, atol=1e-2)


def test_padding_is_no_level() -> None:
    """Zeros, which lie between two levels, do not hide the levels."""
    inputs = normalized(images(24))
    for entry in inputs:
        entry["image"][..., 10:] = 0
    assert exact_pixels.levels(inputs, "image") is not None


def test_what_has_no_levels() -> None:
    """Other values than a byte's, too few to know the step, other ranks and types, NaN, and no image at all."""
    few, wide = (normalized([image // by * by for image in images(24)]) for by in (4, 1))
    sixteen = [{"image": entry["image"] + normal(7, 1, 3, 16, 12).round() * 9} for entry in wide]
    off = [{"image": entry["image"] + np.float32(0.004) * (entry["image"] > 0)} for entry in wide]
    nothing = [{"image": np.full((1, 3, 16, 12), np.nan, np.float32)}]
    flat = [{"image": entry["image"][0]} for entry in wide]
    double = [{"image": entry["image"].astype(np.float64)} for entry in wide]
    noise = [{"image": normal(i, 1, 3, 64, 64)} for i in range(24)]
    for inputs in (few, sixteen, off, nothing, flat, double, noise, []):
        assert exact_pixels.levels(inputs, "image") is None


def test_network_is_the_same_but_where_padding_is_read(graph: Path, tmp_path: Path) -> None:
    """Bytes and folded weights give what normalized images give; along the border one zero serves all channels."""
    found = exact_pixels.find_pixels(load_graph(graph), MOVED, normalized(images(24)), asymmetric=True)["image"]
    assert found.range.minimum == -114
    edit = ReadBytes({"image": found.factors}, {"image": found.offsets})
    model = edit.apply(load_graph(graph), {"c1", "c2", "c3"})
    onnx.checker.check_model(model, full_check=True)
    assert [node.input[0] for node in model.graph.node if node.op_type == "Conv"] == [
        "image.bytes", "image.bytes", "image", "c3",
    ]  # fmt: skip
    save_graph(model, tmp_path / "bytes.onnx")
    for inputs in normalized(images(3, seed=9)):
        expected, made = (GraphSession(path).run(inputs)["y"] for path in (graph, tmp_path / "bytes.onnx"))
        np.testing.assert_allclose(made[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=2e-4)
        assert not np.allclose(made[..., 0, :], expected[..., 0, :], atol=1e-2)


def test_rounding_is_exact(graph: Path) -> None:
    """Every level is an integer, black and white among them, whatever calibration saw."""
    plan = planned(graph)
    found = plan.tensors["image.bytes"]
    scale, zero = activation_scale(found, True)
    assert (scale, zero) == (1.0, 114)
    image = images(1, seed=3)[0]
    values = normalized([image])[0]["image"]
    values = values / pixels(plan).factors["image"].reshape(1, 3, 1, 1)
    values = values - pixels(plan).offsets["image"].reshape(1, 3, 1, 1)
    np.testing.assert_allclose(round_input(values, found, True), image.astype(np.float32) - 114, atol=0)
    np.testing.assert_allclose(values, image.astype(np.float32) - 114, atol=1e-3)


@pytest.mark.parametrize(("spec", "left"), [(ASYMMETRIC, 0.7), (FLOWS, 0.95)], ids=["sums in float", "integers flow"])
def test_only_weights_are_rounded(graph: Path, spec: Spec, left: float) -> None:
    """With the first layer alone in int8, exact levels leave less error: that of its weights, and its rounded sums."""
    inputs, errors = normalized(images(8, seed=5)), []
    for repairs in (["exact pixels"], []):
        plan, _ = repaired_plan.repaired_plan(graph, normalized(images(24)), spec, graph.parent, "minmax", repairs)
        kept = only(plan, ["c1"])
        rounded = [simulate(graph, kept, spec).run(entry)["y"][..., 1:-1, 1:-1] for entry in inputs]
        expected = [GraphSession(graph).run(entry)["y"][..., 1:-1, 1:-1] for entry in inputs]
        errors.append(float(np.mean([(a - b) ** 2 for a, b in zip(expected, rounded, strict=True)])))
    assert errors[0] < left * errors[1]


def test_layer_that_is_given_back_reads_the_input_as_it_is(graph: Path) -> None:
    """With no reader in int8 the network is as it was; with one, the other one is."""
    plan = planned(graph)
    model = apply_edits(load_graph(graph), plan.edits, [])
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in load_graph(graph).graph.node]
    model = apply_edits(load_graph(graph), plan.edits, ["c2"])
    read = {node.name: node.input[0] for node in model.graph.node}
    assert (read["c1"], read["c2"]) == ("image", "image.bytes")
    weights = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    np.testing.assert_array_equal(weights["w1"], WEIGHTS["w1"])


def test_plan_is_read_again_and_runs(graph: Path, tmp_path: Path) -> None:
    """The plan fits its graph from file, and the graph in QDQ form agrees with the simulation."""
    plan = planned(graph)
    plan.save(tmp_path / "plan.json")
    again = make_plan.load_plan(tmp_path / "plan.json", graph)
    assert again == replace(plan, edits=again.edits)
    model = rewritten(quantize_dequantize, repaired_plan.repaired(graph, again, ASYMMETRIC), again, ASYMMETRIC)
    save_graph(model, tmp_path / "qdq.onnx")
    inputs = normalized(images(1, seed=3))[0]
    expected = simulate(graph, again, ASYMMETRIC).run(inputs)["y"]
    found = GraphSession(tmp_path / "qdq.onnx", optimize=False).run(inputs)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_edited_input_is_refused(graph: Path, tmp_path: Path) -> None:
    """A plan whose layer is to read what it cannot is named."""
    plan = planned(graph)
    layers = {**plan.layers, "c4": replace(plan.layers["c4"], input="image.bytes")}
    replace(plan, layers=layers).save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match=r"c4 has input 'image.bytes' in the plan and 'c3' in the graph"):
        make_plan.load_plan(tmp_path / "plan.json", graph)


def test_target_without_a_zero_point_is_off_by_one_for_white_alone(alike: Path) -> None:
    """Around 0 there are 255 integers: those of the levels from black on, less their middle."""
    plan = planned(alike, SYMMETRIC)
    found = plan.tensors["image.bytes"]
    assert activation_scale(found, False)[0] == 1.0
    image = images(1, seed=3)[0]
    assert 0 in image
    assert 255 in image
    values = normalized([image])[0]["image"] / pixels(plan).factors["image"].reshape(1, 3, 1, 1)
    values = values - pixels(plan).offsets["image"].reshape(1, 3, 1, 1)
    expected = np.minimum(image.astype(np.float32) - 127, 127)
    np.testing.assert_allclose(round_input(values, found, False), expected, atol=0)


@pytest.mark.parametrize("moved", [{"c1"}, MOVED], ids=["one reader", "both readers"])
def test_without_a_zero_point_padding_is_exact(alike: Path, tmp_path: Path, moved: set[str]) -> None:
    """The network in bytes is the same to the border, and so is what is simulated, but for rounding."""
    plan = planned(alike, SYMMETRIC)
    bare = unrounded(plan)
    model = apply_edits(load_graph(alike), bare.edits, moved)
    onnx.checker.check_model(model, full_check=True)
    save_graph(model, tmp_path / "bytes.onnx")
    inputs = normalized(images(1, seed=3, high=254))[0]
    expected, made = (GraphSession(path).run(inputs)["y"] for path in (alike, tmp_path / "bytes.onnx"))
    np.testing.assert_allclose(made, expected, atol=2e-4)
    simulated = simulate(alike, only(bare, list(moved)), SYMMETRIC).run(inputs)["y"]
    np.testing.assert_allclose(simulated, expected, atol=0.02 * float(np.abs(expected).max()))


def test_layers_that_pad_differently_read_the_input_as_it_is(graph: Path) -> None:
    """One padded image would not do for both; beside a zero point each pads the bytes itself."""
    assert planned(graph, SYMMETRIC).layers["c1"].input == "image"
    assert planned(graph).layers["c1"].input == "image.bytes"


def test_repair_can_be_left_out(graph: Path) -> None:
    """Without it a plan reads the input as it is."""
    plan, _ = repaired_plan.repaired_plan(graph, normalized(images(24)), SYMMETRIC, graph.parent, "minmax", [])
    assert "image" not in pixels(plan).factors
    assert plan.layers["c1"].input == "image"
