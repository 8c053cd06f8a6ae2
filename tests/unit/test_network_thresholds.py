"""Rare peaks are clipped where the network's output does not miss them, and steps suit what flat areas have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import network, normal
from onnx import numpy_helper

from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization import network_thresholds
from sandglass.quantization.output_noise import noise, run
from sandglass.quantization.plan import TensorRange

# What a peak leads to is below 0 and cut off where channel 0 counts negatively, and reaches the output where it does
# not.
TEXT = """g (float[1, 4, 16, 12] x) => (float[1, 6, 16, 12] y) {
    c = Conv(r, w2, b2)
    s = Relu(c)
    y = Conv(s, w3) }"""
SPIKE, SIZE = 200.0, (1, 4, 16, 12)
ALONE = {"r": "r", "s": "s"}  # no tensor carries the values of another


def graph(path: Path, sign: float) -> Path:
    """Two layers that read `r` and `s`; channel 0 of `r` has weights of one sign."""
    weight = 0.5 * normal(1, 8, 4, 1, 1)
    weight[:, 0] = sign * np.abs(weight[:, 0])
    text = TEXT.replace("c = Conv", "r = Relu(x)\n    c = Conv")
    values = {"w2": weight, "b2": normal(2, 8), "w3": 0.3 * normal(3, 6, 8, 1, 1)}
    save_graph(network(text, values), path)
    return path


def images(count: int) -> list[dict[str, np.ndarray]]:
    """Inputs, one of which has a peak in one pixel of channel 0."""
    found = [normal(10 + i, *SIZE) for i in range(count)]
    found[0][0, 0, 3, 4] = SPIKE
    return [{"x": image} for image in found]


def ranges() -> dict[str, TensorRange]:
    """Nothing clipped yet."""
    return {"r": TensorRange(0.0, SPIKE, SPIKE), "s": TensorRange(0.0, 8.0, 8.0)}


def chosen(path: Path, names: list[str]) -> dict[str, TensorRange]:
    """Ranges by the network."""
    return network_thresholds.choose(path, ranges(), names, [], ALONE, ["c", "y"], {"r": True, "s": True}, images(8))


def test_peak_that_is_cut_off_later_is_clipped(tmp_path: Path) -> None:
    """The threshold comes down to what the other values need."""
    found = chosen(graph(tmp_path / "g.onnx", -1.0), ["r"])
    assert 3 < found["r"].threshold < 0.2 * SPIKE
    assert found["s"] == ranges()["s"]


def test_peak_that_reaches_the_output_is_kept(tmp_path: Path) -> None:
    """Clipping it would cost more than coarse steps do."""
    assert chosen(graph(tmp_path / "g.onnx", 1.0), ["r"])["r"].threshold == SPIKE


def test_input_of_the_network_may_be_the_one_with_peaks(tmp_path: Path) -> None:
    """It is no output of any node; the image with its peak is among those that thresholds are tried on."""
    path = graph(tmp_path / "g.onnx", -1.0)
    text = TEXT.replace("(float[1, 4, 16, 12] x)", "(float[1, 4, 16, 12] r)")
    save_graph(network(text, weights(path)), path)
    batches = [{"r": np.maximum(batch["x"], 0)} for batch in images(40)[::-1]]
    assert any(batch["r"].max() == SPIKE for batch in network_thresholds._with_peaks(path, ["r"], batches))
    found = network_thresholds.choose(path, ranges(), ["r"], [], {"r": "r"}, ["c", "y"], {"r": True}, batches)
    assert 3 < found["r"].threshold < 0.2 * SPIKE


def test_threshold_that_is_good_is_kept(tmp_path: Path) -> None:
    """Without a peak, half the range clips and twice the range is not needed: it moves by less than that."""
    path = graph(tmp_path / "g.onnx", -1.0)
    found = chosen(path, ["s"])
    assert found["r"] == ranges()["r"]
    assert 4 < found["s"].threshold <= 8


@pytest.mark.parametrize("best", [0.9, 1.4, 2.7, 5.2, 7.9, 30.0])
def test_threshold_is_found_in_small_steps(best: float) -> None:
    """Wherever the least change is, the threshold comes as near as a step, and not above the largest magnitude."""
    tried: list[float] = []

    def change(found: TensorRange) -> float:
        tried.append(found.threshold)
        return 1 + abs(np.log2(found.threshold / best))

    found = network_thresholds._best_of_all(TensorRange(0.0, 8.0, 8.0), change)
    assert abs(np.log2(found.threshold / min(best, 8.0))) <= np.log2(network_thresholds.FINER) / 2 + 1e-9
    assert max(tried) <= 8
    assert len(tried) <= 13


def test_threshold_that_is_hardly_worse_is_not_left_for_halves() -> None:
    """A half that brings less than GAIN is not taken; the steps beside the threshold that is there are tried."""
    tried = {8.0: 0.95, 4.0: 0.95}
    found = network_thresholds._best_of_all(TensorRange(0.0, 8.0, 6.0), lambda found: tried.get(found.threshold, 1.0))
    assert found.threshold == 6.0


# One channel is nearly flat, and much comes of it; another sets the range.
FLAT = """g (float[1, 2, 16, 12] x) => (float[1, 2, 16, 12] y) {
    r = Relu(x)
    y = Conv<group = 2, pads = [1, 1, 1, 1]>(r, w) }"""
LARGEST, STEPS = 6.0, 89.5  # the value of flat areas lies in the middle between two steps


def flat_images(count: int) -> list[dict[str, np.ndarray]]:
    """Inputs whose first channel has one value but for a few pixels."""
    found = []
    for i in range(count):
        image = np.abs(normal(20 + i, 1, 2, 16, 12)).clip(0, LARGEST)
        image[0, 0, 3:] = STEPS * LARGEST / 255
        image[0, 1, 0, 0] = LARGEST
        found.append({"x": image})
    return found


def test_value_of_flat_areas_lies_on_a_step(tmp_path: Path) -> None:
    """On images that it was not chosen on the network's output moves by half or less."""
    weight = np.concatenate([np.ones((1, 1, 3, 3)), np.full((1, 1, 3, 3), 0.01)])
    save_graph(network(FLAT, {"w": weight}), tmp_path / "g.onnx")
    before, alone = TensorRange(0.0, LARGEST, LARGEST), {"r": "r"}
    images = flat_images(24)
    found = network_thresholds.choose(
        tmp_path / "g.onnx", {"r": before}, [], ["r"], alone, ["y"], {"r": True}, images[:8]
    )["r"]
    steps = STEPS * LARGEST / found.threshold
    assert abs(steps - round(steps)) < 0.1
    assert 0.9 * LARGEST < found.threshold < LARGEST
    session = network_thresholds._Session(tmp_path / "g.onnx", ["r"], alone, {"y"}, tmp_path)
    expected = run(GraphSession(tmp_path / "g.onnx"), images[8:])
    moved = [
        network_thresholds._distance(
            expected, run(session, [batch | session.rounding("r", entry, True) for batch in images[8:]])
        )
        for entry in (before, found)
    ]
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("best", [5.99, 5.7, 5.57])
def test_threshold_nearby_is_found_to_half_a_hundredth(best: float) -> None:
    """Of those that are a few hundredths smaller the best, in few steps."""
    tried: list[float] = []

    def change(found: TensorRange) -> float:
        tried.append(found.threshold)
        return 1 + 100 * abs(found.threshold / best - 1)

    found = network_thresholds._best_nearby(TensorRange(0.0, 6.0, 6.0), change)
    assert abs(found.threshold / best - 1) < (0.005 if best < 5.9 else 0.01)
    assert max(tried) <= 6
    assert len(tried) <= 13


def test_tensors_with_more_than_an_even_share_of_the_noise_are_loud() -> None:
    """Noise is a power, the square of a distance; one tensor alone is loud."""
    assert network_thresholds._loud({"a": 1.0, "b": 3.0, "c": 2.0}) == ["b"]
    assert network_thresholds._loud({"a": 2.0}) == ["a"]
    assert network_thresholds._loud({}) == []


def test_threshold_that_is_hardly_worse_is_not_left_for_others_nearby() -> None:
    """A tenth less has to come of another."""
    before = TensorRange(0.0, 8.0, 6.0)
    assert network_thresholds._best_nearby(before, lambda found: 1.0 if found == before else 0.91) == before


def test_one_input_that_moves_far_does_not_outweigh_all_others() -> None:
    """Distances add up, not their squares."""
    expected = [{"y": np.zeros((1, 4), np.float32)} for _ in range(5)]
    one = [{"y": np.full((1, 4), 3.0 if i == 0 else 0.0, np.float32)} for i in range(5)]
    all_of_them = [{"y": np.full((1, 4), 1.0, np.float32)} for _ in range(5)]
    assert network_thresholds._distance(expected, one) == pytest.approx(6)
    assert network_thresholds._distance(expected, all_of_them) == pytest.approx(10)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_session_rounds_what_it_is_told_and_nothing_else(tmp_path: Path, asymmetric: bool) -> None:
    """Fed with no bounds the network is the float one; fed with a range, its values lie on that range's steps."""
    path, batch = graph(tmp_path / "g.onnx", -1.0), images(1)[0]
    expected = GraphSession(path).run(batch)
    session = network_thresholds._Session(path, ["r", "s"], ALONE, {"c", "y"}, tmp_path)
    floating = session.floating("r", ranges()["r"]) | session.floating("s", ranges()["s"])
    assert noise([expected], run(session, [{**batch, **floating}])) < 1e-9
    found = TensorRange(0.0, SPIKE, 2.0)
    step = 2.0 / (255 if asymmetric else 127)
    rounded = run(session, [{**batch, **floating, **session.rounding("r", found, asymmetric)}])
    by_hand = np.round(np.clip(np.maximum(batch["x"], 0), 0, 2.0) / step) * step
    save_graph(network(TEXT.replace("(float[1, 4, 16, 12] x)", "(float[1, 4, 16, 12] r)"), weights(path)), path)
    np.testing.assert_allclose(
        rounded[0]["y"], GraphSession(path).run({"r": by_hand.astype(np.float32)})["y"], atol=1e-4
    )


def weights(path: Path) -> dict[str, np.ndarray]:
    """The constants of a network."""
    return {entry.name: numpy_helper.to_array(entry) for entry in load_graph(path).graph.initializer}


@pytest.mark.parametrize(("share", "rare"), [(0.0, True), (0.005, True), (0.02, False), (1.0, False)])
def test_peaks_are_rare_where_few_values_come_near_them(share: float, rare: bool) -> None:
    """One in a hundred values may be above a quarter of the largest."""
    rows = np.full(20_000, 0.2)
    rows[: int(share * len(rows))] = 0.3
    assert network_thresholds.rare_peaks(rows, TensorRange(-1.0, 0.5, 1.0)) == rare
