"""Rare peaks are clipped where the network's output does not miss them, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from graphs import network, normal
from sandglass.graph.execute import GraphSession
from sandglass.graph.load import load_graph, save_graph
from sandglass.quantize import peaks
from sandglass.quantize.plan import TensorRange
from sandglass.quantize.sensitivity import noise, run

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
    return peaks.network_thresholds(path, ranges(), names, ALONE, ["c", "y"], {"r": True, "s": True}, images(8))


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
    assert any(batch["r"].max() == SPIKE for batch in peaks._with_peaks(path, ["r"], batches))
    found = peaks.network_thresholds(path, ranges(), ["r"], {"r": "r"}, ["c", "y"], {"r": True}, batches)
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

    found = peaks._best(TensorRange(0.0, 8.0, 8.0), change)
    assert abs(np.log2(found.threshold / min(best, 8.0))) <= np.log2(peaks.FINER) / 2 + 1e-9
    assert max(tried) <= 8
    assert len(tried) <= 13


def test_threshold_that_is_hardly_worse_is_not_left_for_halves() -> None:
    """A half that brings less than GAIN is not taken; the steps beside the threshold that is there are tried."""
    found = peaks._best(TensorRange(0.0, 8.0, 6.0), lambda found: 0.95 if found.threshold in (8.0, 4.0) else 1.0)
    assert found.threshold == 6.0


def test_one_input_that_moves_far_does_not_outweigh_all_others() -> None:
    """Distances add up, not their squares."""
    expected = [{"y": np.zeros((1, 4), np.float32)} for _ in range(5)]
    one = [{"y": np.full((1, 4), 3.0 if i == 0 else 0.0, np.float32)} for i in range(5)]
    all_of_them = [{"y": np.full((1, 4), 1.0, np.float32)} for _ in range(5)]
    assert peaks._moved(expected, one) == pytest.approx(6)
    assert peaks._moved(expected, all_of_them) == pytest.approx(10)


@pytest.mark.parametrize("asymmetric", [True, False])
def test_session_rounds_what_it_is_told_and_nothing_else(tmp_path: Path, asymmetric: bool) -> None:
    """Fed with no bounds the network is the float one; fed with a range, its values lie on that range's steps."""
    path, batch = graph(tmp_path / "g.onnx", -1.0), images(1)[0]
    expected = GraphSession(path).run(batch)
    session = peaks._session(path, ["r", "s"], ALONE, {"c", "y"}, tmp_path)
    floating = peaks._floating("r", ranges()["r"]) | peaks._floating("s", ranges()["s"])
    assert noise([expected], run(session, [{**batch, **floating}])) < 1e-9
    found = TensorRange(0.0, SPIKE, 2.0)
    step = 2.0 / (255 if asymmetric else 127)
    rounded = run(session, [{**batch, **floating, **peaks._rounding("r", found, asymmetric)}])
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
    assert peaks.rare_peaks(rows, TensorRange(-1.0, 0.5, 1.0)) == rare
