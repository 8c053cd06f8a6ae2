"""Channels are evened out where the network stays the same, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, uneven
from onnx import numpy_helper

from sandglass.graph.io import save_graph
from sandglass.graph.layers import facts
from sandglass.graph.session import GraphSession
from sandglass.quantization.channel_links import gaining, links
from sandglass.quantization.channel_ranges import ChannelRange, channel_ranges
from sandglass.quantization.edits import ScaleChannels
from sandglass.quantization.repairs import equalize

IN, OUT = "g (float[1, 3, 12, 8] image)", "(float[N, C, H, W] y)"
FIRST = {"w1": uneven(1, 8, 3, 3, 3), "b1": np.abs(uneven(2, 8)) / 4}
LAST = {"w9": normal(9, 5, 8, 1, 1), "b9": normal(10, 5)}
BOUNDS = {name: np.array(value, np.float32) for name, value in (("zero", 0), ("six", 6), ("high", 1000))}
CONV = "c = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)"
# By name: text, weights beside FIRST, LAST and BOUNDS, and the tensors whose channels must be scaled.
NETWORKS: dict[str, tuple[str, dict[str, np.ndarray], set[str]]] = {
    "relu": (f"{CONV} r = Relu(c) y = Conv(r, w9, b9)", {}, {"r"}),
    "nothing between": (f"{CONV} y = Conv(c, w9, b9)", {}, {"c"}),
    "without bias": ("c = Conv(image, w1) r = Relu(c) y = Conv(r, w9)", {}, {"r"}),
    "clip": (f"{CONV} r = Clip(c, zero, high) y = Conv(r, w9, b9)", {}, {"r"}),
    "clip without an end": (f"{CONV} r = Clip(c, zero, ) y = Conv(r, w9, b9)", {}, {"r"}),
    "clip with a computed end": (
        f"{CONV} m = ReduceMax<keepdims = 0>(image) r = Clip(c, zero, m) y = Conv(r, w9, b9)",
        {},
        set(),
    ),
    "depthwise": (
        f"{CONV} r = Relu(c) d = Conv<group = 8>(r, w2, b2) s = Clip(d, zero, high) y = Conv(s, w9, b9)",
        {"w2": normal(3, 8, 1, 3, 3), "b2": normal(4, 8)},
        {"r", "s"},
    ),
    "transposed": (
        f"{CONV} r = Relu(c) t = ConvTranspose<strides = [2, 2]>(r, w2, b2) s = Relu(t) y = Conv(s, w9, b9)",
        {"w2": uneven(3, 8, 8, 4, 4, axis=1), "b2": normal(4, 8)},
        {"r", "s"},
    ),
    "depthwise transposed": (
        f"{CONV} r = Relu(c) t = ConvTranspose<strides = [2, 2], group = 8>(r, w2, b2) s = Relu(t) y = Conv(s, w9, b9)",
        {"w2": normal(3, 8, 1, 4, 4), "b2": normal(4, 8)},
        {"r", "s"},
    ),
    "transposed of other widths": (
        f"{CONV} r = Relu(c) t = ConvTranspose(r, w2) s = Relu(t) y = Conv(s, w3)",
        {"w2": uneven(3, 8, 6, 2, 2, axis=1), "w3": normal(4, 5, 6, 1, 1)},
        {"r", "s"},
    ),
    "grouped": (
        f"{CONV} p = Conv<group = 2>(c, w2) s = Relu(p) y = Conv(s, w9)",
        {"w2": uneven(3, 8, 4, 1, 1)},
        {"s"},
    ),
    "grouped transposed": (
        f"{CONV} t = ConvTranspose<group = 2>(c, w2) y = Conv(t, w9)",
        {"w2": uneven(3, 8, 4, 2, 2, axis=1)},
        set(),
    ),
    "several readers": (
        f"{CONV} r = Relu(c) d = Conv<group = 8>(r, w2) e = Conv(r, w3) s = Add(d, e) y = Conv(s, w9)",
        {"w2": normal(3, 8, 1, 1, 1), "w3": normal(4, 8, 8, 1, 1)},
        {"r"},
    ),
    "shared constants": (
        f"{CONV} r = Relu(c) d = Conv(r, w2, b1) s = Relu(d) e = Conv(s, w2, b1) t = Relu(e) y = Conv(t, w9)",
        {"w2": uneven(3, 8, 8, 1, 1)},
        {"r", "s", "t"},
    ),
    "constants that other nodes read": (
        f"{CONV} r = Relu(c) d = Conv(r, w2, b9) l = Mul(d, w2) y = Add(l, b1)",
        {"w2": normal(3, 8, 8, 1, 1), "b9": normal(4, 8)},
        {"r"},
    ),
    "other clamps": (f"{CONV} r = Clip(c, low, high) y = Conv(r, w9)", {"low": np.array(-1, np.float32)}, set()),
    "sigmoid": (f"{CONV} r = Sigmoid(c) y = Conv(r, w9)", {}, set()),
    "clamp and another reader": (f"{CONV} r = Relu(c) d = Conv(r, w9) n = Neg(c) e = Conv(n, w9) y = Add(d, e)",
                                 {}, set()),
}  # fmt: skip
# Sums tie the factors of their terms together: these are left alone, or scaled alike, and stay the same.
SUMS: dict[str, tuple[str, dict[str, np.ndarray], set[str]]] = {
    "sum": (f"{CONV} e = Conv<pads = [1, 1, 1, 1]>(image, w2) s = Add(c, e) r = Relu(s) y = Conv(r, w9)",
            {"w2": uneven(3, 8, 3, 3, 3)}, set()),
    "residual": (f"{CONV} r = Relu(c) d = Conv(r, w2) s = Add(d, r) t = Relu(s) y = Conv(t, w9)",
                 {"w2": normal(3, 8, 8, 1, 1)}, set()),
    "residuals": (f"{CONV} r = Relu(c) d = Conv(r, w2) s = Add(d, r) e = Conv(s, w3) t = Add(s, e) y = Conv(t, w9)",
                  {"w2": normal(3, 8, 8, 1, 1), "w3": normal(4, 8, 8, 1, 1)}, set()),
    "sum with a constant": (f"{CONV} s = Add(c, k) r = Relu(s) y = Conv(r, w9)", {"k": normal(3, 1, 8, 1, 1)}, set()),
    "sum with one channel": (f"{CONV} e = Conv<pads = [1, 1, 1, 1]>(image, w2) s = Add(c, e) y = Conv(s, w9)",
                             {"w2": normal(3, 1, 3, 3, 3)}, set()),
    "sum of one channel and several": (
        f"{CONV} e = Conv<pads = [1, 1, 1, 1]>(image, w2) s = Add(e, c) y = Conv(s, w9) ",
        {"w2": normal(3, 1, 3, 3, 3)}, set()),
    "sum with the input": ("c = Conv(image, w2) s = Add(c, image) y = Conv(s, w3)",
                           {"w2": normal(3, 3, 3, 1, 1), "w3": normal(4, 5, 3, 1, 1)}, set()),
    "sum of clips": (f"{CONV} r = Clip(c, zero, high) d = Conv(r, w2) s = Clip(d, zero, six) t = Add(r, s) "
                     "y = Conv(t, w9)", {"w2": uneven(3, 8, 8, 1, 1)}, set()),
    "sum that is read by a sigmoid": (f"{CONV} r = Relu(c) d = Conv(r, w2) s = Add(d, r) t = Sigmoid(s) "
                                      "y = Conv(t, w9)", {"w2": normal(3, 8, 8, 1, 1)}, set()),
    "sum that is the output": (f"{CONV} r = Relu(c) d = Conv(r, w2) y = Add(d, r)",
                               {"w2": normal(3, 8, 8, 1, 1)}, set()),
    "pooling": (f"{CONV} r = Relu(c) p = MaxPool<kernel_shape = [2, 2]>(r) y = Conv(p, w9)", {}, set()),
    "clamp and layer": (f"{CONV} r = Relu(c) d = Conv(r, w9) e = Conv(c, w9) y = Add(d, e)", {}, set()),
    "means": (f"{CONV} r = Relu(c) p = GlobalAveragePool(r) y = Conv(p, w9)", {}, set()),
    "scales of channels": (f"{CONV} r = Relu(c) p = GlobalAveragePool(r) q = Conv(p, w2) h = Sigmoid(q) m = Mul(r, h) "
                           "y = Conv(m, w9)", {"w2": normal(3, 8, 8, 1, 1)}, set()),
}  # fmt: skip
LEFT_ALONE = ("clip with a computed end", "grouped transposed", "other clamps", "sigmoid", "clamp and another reader")


def built(name: str) -> onnx.ModelProto:
    """A network of NETWORKS."""
    text, weights, _ = {**NETWORKS, **SUMS}[name]
    return network(f"{IN} => {OUT} {{ {text} }}", {**FIRST, **LAST, **BOUNDS, **weights})


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Inputs of the networks."""
    return [{"image": normal(seed + i, 1, 3, 12, 8)} for i in range(count)]


def peaks_of(path: Path, tensors: list[str]) -> dict[str, np.ndarray]:
    """The largest magnitude of each channel on four images, by tensor."""
    return _peaks(channel_ranges(path, tensors, images(4)))


def _peaks(found: dict[str, ChannelRange]) -> dict[str, np.ndarray]:
    return {name: np.maximum(-seen.low, seen.high) for name, seen in found.items()}


def equalized(model: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The network, saved at `path`, after equalization on four images, and its factors."""
    save_graph(model, path)
    found = links(model)
    factors: dict[str, np.ndarray] = {}
    if found:
        tensors = [tensor for link in found for tensor in getattr(link, "tensors", (link.tensor,))]
        seen = channel_ranges(path, tensors, images(4))
        ever = {name: replace(one, usual_low=one.low, usual_high=one.high) for name, one in seen.items()}
        factors = equalize.choose_factors(found, facts(model), ever)
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    return ScaleChannels(factors).apply(changed, ()), factors


def run(model: onnx.ModelProto, path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a model."""
    save_graph(model, path)
    return next(iter(GraphSession(path).run(inputs).values()))


@pytest.mark.parametrize("name", [*NETWORKS, *SUMS])
def test_network_stays_the_same(name: str, tmp_path: Path) -> None:
    """After scaling, outputs on new inputs differ by float rounding alone, though weights have changed."""
    model = built(name)
    changed, factors = equalized(model, tmp_path / "before.onnx")
    inputs = images(1, seed=100)[0] if "clip" not in name else images(4)[1]
    expected = run(model, tmp_path / "before.onnx", inputs)
    np.testing.assert_allclose(
        run(changed, tmp_path / "after.onnx", inputs), expected, atol=1e-5 * float(np.abs(expected).max())
    )
    if name in NETWORKS:
        assert set(factors) >= NETWORKS[name][2]
    assert not factors or name not in LEFT_ALONE
    assert bool(factors) == any(
        np.abs(after - before).max() > 0.01 * np.abs(before).max()
        for before, after in zip(weights_of(model), weights_of(changed), strict=True)
    )


def weights_of(model: onnx.ModelProto) -> list[np.ndarray]:
    """The weights that each layer reads."""
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    return [constants[node.input[1]] for node in model.graph.node if "Conv" in node.op_type]


def test_ranges_are_those_of_all_batches(tmp_path: Path) -> None:
    """Smallest and largest value of each channel, over every image, and the mean of each image's."""
    save_graph(built("relu"), tmp_path / "g.onnx")
    values = [GraphSession(tmp_path / "g.onnx", outputs=["c", "r"]).run(inputs) for inputs in images(4)]
    for name, seen in channel_ranges(tmp_path / "g.onnx", ["c", "r"], images(4)).items():
        lows, highs = ([getattr(value[name], end)((0, 2, 3)) for value in values] for end in ("min", "max"))
        np.testing.assert_array_equal(seen.low, np.min(lows, axis=0))
        np.testing.assert_array_equal(seen.high, np.max(highs, axis=0))
        np.testing.assert_allclose(seen.usual_low, np.mean(lows, axis=0), rtol=1e-6)
        np.testing.assert_allclose(seen.usual_high, np.mean(highs, axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["relu", "depthwise", "transposed", "grouped", "several readers"])
def test_channels_come_nearer_each_other(name: str, tmp_path: Path) -> None:
    """Ranges of a tensor's channels differ by less than before, and each is what it was over its factor."""
    model = built(name)
    changed, factors = equalized(model, tmp_path / "before.onnx")
    save_graph(changed, tmp_path / "after.onnx")
    for tensor, values in factors.items():
        before, after = (peaks_of(tmp_path / f"{file}.onnx", [tensor])[tensor] for file in ("before", "after"))
        np.testing.assert_allclose(after, before / values, rtol=1e-3)
        spread = [peaks.max() / peaks[before > 0].min() for peaks in (before, after)]
        assert spread[1] < 0.7 * spread[0]


def test_depthwise_reader_makes_channels_even(tmp_path: Path) -> None:
    """Where only depthwise layers read a tensor, which have a scale for each channel, all its channels become equal."""
    model = built("depthwise")
    changed, _ = equalized(model, tmp_path / "before.onnx")
    save_graph(changed, tmp_path / "after.onnx")
    peaks = peaks_of(tmp_path / "after.onnx", ["r"])["r"]
    np.testing.assert_allclose(peaks, peaks.max(), rtol=1e-3)


def test_largest_factor_is_one(tmp_path: Path) -> None:
    """No tensor's range grows: a channel is divided by 1 at most, and by no less than the limit."""
    for name, (_, _, tensors) in NETWORKS.items():
        _, factors = equalized(built(name), tmp_path / "before.onnx")
        for tensor in tensors:
            assert factors[tensor].max() == 1, name
            assert factors[tensor].min() >= np.float32(equalize.SMALLEST), name


def test_dead_channel_does_no_harm(tmp_path: Path) -> None:
    """A channel that is 0 on every image gets a factor that is finite, and nothing becomes NaN."""
    model = built("relu")
    for entry in model.graph.initializer:
        if entry.name in ("w1", "b1"):
            values = numpy_helper.to_array(entry).copy()
            values[3] = 0
            entry.CopyFrom(numpy_helper.from_array(values, entry.name))
    changed, factors = equalized(model, tmp_path / "before.onnx")
    assert np.isfinite(factors["r"]).all()
    (inputs,) = images(1, seed=100)
    expected = run(model, tmp_path / "before.onnx", inputs)
    np.testing.assert_allclose(run(changed, tmp_path / "after.onnx", inputs), expected, rtol=1e-4, atol=1e-5)


def clipped(limit: float) -> onnx.ModelProto:
    """A network whose Clip has the given limit; its channels differ in range a hundredfold."""
    text = f"{IN} => {OUT} {{ {CONV} r = Clip(c, zero, six) y = Conv(r, w9, b9) }}"
    return network(text, {**FIRST, **LAST, "zero": np.float32(0), "six": np.float32(limit)})


def test_clip_that_is_reached_stays_where_it_is(tmp_path: Path) -> None:
    """A channel near its Clip keeps its scale; others are enlarged, and stay below the limit by the margin."""
    model = clipped(1.0)
    changed, factors = equalized(model, tmp_path / "before.onnx")
    assert [link.limit for link in links(model)] == [1.0]
    seen = channel_ranges(tmp_path / "before.onnx", ["r"], images(4))["r"]
    reach = seen.high + equalize.MARGIN * (seen.high - seen.low)
    near = reach > 1
    assert near.any()
    assert not near.all()
    np.testing.assert_array_equal(factors["r"][near], 1)
    assert (factors["r"][~near] < 1).any()
    assert (reach / factors["r"])[~near].max() <= 1.0001
    for inputs in images(4):
        expected = run(model, tmp_path / "before.onnx", inputs)
        np.testing.assert_allclose(
            run(changed, tmp_path / "after.onnx", inputs), expected, atol=1e-5 * float(np.abs(expected).max())
        )


def test_margin_is_of_what_a_channel_spans(tmp_path: Path) -> None:
    """A channel that lives far from 0 within a narrow range may come as near to its Clip as one around 0."""
    text = f"{IN} => {OUT} {{ {CONV} r = Clip(c, zero, six) d = Conv<group = 8>(r, w2) y = Conv(d, w9, b9) }}"
    weight, bias = normal(1, 8, 3, 3, 3) / 200, np.zeros(8, np.float32)
    bias[0], bias[1], weight[1] = 2, 5, weight[1] * 20
    model = network(text, {**LAST, **BOUNDS, "w1": weight, "b1": bias, "w2": normal(3, 8, 1, 3, 3)})
    _, factors = equalized(model, tmp_path / "before.onnx")
    seen = channel_ranges(tmp_path / "before.onnx", ["r"], images(4))["r"]
    assert seen.low[0] > 1
    span = seen.high[0] - seen.low[0]
    assert factors["r"][0] == pytest.approx((seen.high[0] + equalize.MARGIN * span) / 6, rel=1e-5)


def test_clip_within_everything_stops_all_factors(tmp_path: Path) -> None:
    """Where every channel reaches its Clip the tensor is left alone."""
    text = f"{IN} => {OUT} {{ {CONV} r = Clip(c, zero, six) y = Conv(r, w9, b9) }}"
    weights = {**LAST, "w1": normal(1, 8, 3, 3, 3), "b1": normal(2, 8), "zero": np.float32(0), "six": np.float32(0.1)}
    model = network(text, weights)
    _, factors = equalized(model, tmp_path / "before.onnx")
    assert links(model)
    assert factors == {}


def test_only_what_integer_layers_gain_by_is_worth_it() -> None:
    """Somebody must read it in int8, and behind a Clip that would move no dense layer."""
    text = (
        f"{IN} => {OUT} {{ {CONV} r = Clip(c, zero, six) d = Conv<group = 8>(r, w2) s = Clip(d, zero, six) "
        "e = Conv(s, w3) t = Relu(e) y = Conv(t, w9) }"
    )
    model = network(text, {**FIRST, **LAST, **BOUNDS, "w2": normal(3, 8, 1, 3, 3), "w3": normal(4, 8, 8, 1, 1)})
    found = links(model)
    assert [(link.tensor, link.moves_clip) for link in found] == [("r", True), ("s", True), ("t", False)]
    for integer, worth in (("cdey", "rt"), ("cey", "t"), ("cd", "r"), ("e", "")):
        assert [link.tensor for link in gaining(found, model, set(integer))] == list(worth)


def test_what_is_clipped_makes_no_channel_usual(tmp_path: Path) -> None:
    """Ends given for a tensor count for its usual range, and for no other, and not for what was ever seen."""
    save_graph(built("pooling"), tmp_path / "g.onnx")
    plain, cut = (
        channel_ranges(tmp_path / "g.onnx", ["c", "r"], images(4), ends)
        for ends in (None, {"c": (np.full(1, -0.1), np.full(1, 0.2))})
    )
    assert plain["c"].usual_low.min() < -0.1
    assert plain["c"].usual_high.max() > 0.2
    assert cut["c"].usual_low.min() == pytest.approx(-0.1)
    assert cut["c"].usual_high.max() == pytest.approx(0.2)
    np.testing.assert_array_equal(cut["c"].high, plain["c"].high)
    np.testing.assert_array_equal(cut["r"].usual_high, plain["r"].usual_high)


def test_output_of_the_network_is_left_alone() -> None:
    """A tensor that is also an output keeps its values."""
    for kept in ("r", "c"):
        out = f"(float[N, C, H, W] {kept}, float[N, C, H, W] y)"
        model = network(f"{IN} => {out} {{ {CONV} r = Relu(c) y = Conv(r, w9) }}", {**FIRST, "w9": LAST["w9"]})
        assert links(model) == []


def test_bias_that_is_computed_stops_a_factor() -> None:
    """A layer whose bias is no constant is not scaled, and no error."""
    text = f"{IN} => {OUT} {{ n = Neg(b1) c = Conv(image, w1, n) r = Relu(c) y = Conv(r, w9) }}"
    model = network(text, {**FIRST, "w9": LAST["w9"]})
    assert links(model) == []
