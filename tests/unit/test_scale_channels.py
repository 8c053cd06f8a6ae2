"""Channels are evened out where the network stays the same, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, uneven
from onnx import numpy_helper

from sandglass.graph.io import save_graph
from sandglass.graph.layers import facts
from sandglass.graph.session import GraphSession
from sandglass.quantization.channel_links import links
from sandglass.quantization.channel_ranges import channel_ranges
from sandglass.quantization.edits import ScaleChannels

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


def scaled(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The network after the channels of every group are divided by random factors up to 1, and the factors."""
    factors: dict[str, np.ndarray] = {}
    for number, link in enumerate(links(model)):
        channels = facts(model)[link.producers[0]].channels
        # A factor moves a Clip with its channel: the network is the same where the Clip is not reached.
        values = np.random.default_rng(number).uniform(0.3, 1, channels) if link.limit > 1e3 else np.ones(channels)
        factors |= dict.fromkeys(link.tensors, values.astype(np.float32))
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
    changed, factors = scaled(model)
    (inputs,) = images(1, seed=100)
    expected = run(model, tmp_path / "before.onnx", inputs)
    np.testing.assert_allclose(
        run(changed, tmp_path / "after.onnx", inputs), expected, atol=1e-5 * float(np.abs(expected).max())
    )
    if name in NETWORKS:
        assert set(factors) >= NETWORKS[name][2]
    assert not factors or name not in LEFT_ALONE
    assert any(values.min() < 1 for values in factors.values()) == any(
        np.abs(after - before).max() > 0.01 * np.abs(before).max()
        for before, after in zip(weights_of(model), weights_of(changed), strict=True)
    )


def weights_of(model: onnx.ModelProto) -> list[np.ndarray]:
    """The weights that each layer reads."""
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    return [constants[node.input[1]] for node in model.graph.node if "Conv" in node.op_type]


def test_ranges_are_those_of_all_batches(tmp_path: Path) -> None:
    """Smallest and largest value of each channel, over every image."""
    save_graph(built("relu"), tmp_path / "g.onnx")
    values = [GraphSession(tmp_path / "g.onnx", outputs=["c", "r"]).run(inputs) for inputs in images(4)]
    for name, seen in channel_ranges(tmp_path / "g.onnx", ["c", "r"], images(4)).items():
        lows, highs = ([getattr(value[name], end)((0, 2, 3)) for value in values] for end in ("min", "max"))
        np.testing.assert_array_equal(seen.low, np.min(lows, axis=0))
        np.testing.assert_array_equal(seen.high, np.max(highs, axis=0))


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
