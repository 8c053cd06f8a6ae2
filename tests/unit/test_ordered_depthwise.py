"""Depthwise layers that add up in ncnn's order, which shows in the last bits of float sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal, rewritten

from sandglass.backends import ncnn
from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.lowering.ordered_depthwise import tap_by_tap
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

SIZE = (10, 14)
LAYERS = {
    "3x3": ("Conv", "pads = [1, 1, 1, 1]", (3, 3)),
    "3x3 of stride 2": ("Conv", "strides = [2, 2], pads = [1, 1, 1, 1]", (3, 3)),
    "5x5": ("Conv", "pads = [2, 2, 2, 2]", (5, 5)),
    "5x5 of stride 2": ("Conv", "strides = [2, 2], pads = [2, 2, 2, 2]", (5, 5)),
    "uneven": ("Conv", "pads = [0, 1, 1, 0]", (2, 3)),
    "transposed": ("ConvTranspose", "strides = [2, 2], pads = [1, 1, 1, 1]", (4, 4)),
}


def layer(operator: str, shape: tuple[int, ...], bias: bool = True) -> onnx.ModelProto:
    """One layer, x of as many channels as its groups take, to y."""
    channels = int(operator.partition("group = ")[2].partition(",")[0].rstrip(">")) * shape[1]
    text = f"""g (float[1, {channels}, {SIZE[0]}, {SIZE[1]}] x) => (float[N, C, H, W] y) {{
        y = {operator}(x, w{", b" if bias else ""}) }}"""
    model = network(text, {"w": normal(1, *shape), "b": normal(2, shape[0])})
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def kinds(model: onnx.ModelProto) -> list[str]:
    """Operators of the nodes, in order."""
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("case", "channels", "bias"),
    [
        (case, channels, bias)
        for case in LAYERS
        for channels, bias in [(4, True), (8, True), (16, True), (16, False)]
        if (case, channels) != ("uneven", 4)  # ncnn rounds products too: four channels, neither 3x3 nor 5x5
    ],
)
def test_sums_are_those_of_ncnn_to_the_bit(case: str, channels: int, bias: bool, tmp_path: Path) -> None:
    """Kernels for each number of channels at once, at the edges too; ONNX Runtime's own adds the bias last."""
    pytest.importorskip("ncnn")
    operator, given, kernel = LAYERS[case]
    model = layer(f"{operator}<group = {channels}, {given}>", (channels, 1, *kernel), bias)
    graph = tmp_path / "g.onnx"
    save_graph(model, graph)
    save_graph(rewritten(tap_by_tap, model), tmp_path / "ordered.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "ordered.onnx"), full_check=True)
    card = Card("one", "topdown-pose", Input(SIZE, (0, 0, 0), (1, 1, 1)), graph=graph)
    session = ncnn.open(tmp_path, ncnn.build(Source(card, graph), "fp32", tmp_path, None), 1)
    ordered, plain = GraphSession(tmp_path / "ordered.onnx", threads=2), GraphSession(graph)
    others = 0
    for seed in range(20):
        image = {"x": normal(10 + seed, 1, channels, *SIZE)}
        found = session.run(image)["y"]
        np.testing.assert_array_equal(ordered.run(image)["y"], found)
        others += np.count_nonzero(plain.run(image)["y"] != found)
    assert others or not bias


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        ("Conv<group = 6, pads = [1, 1, 1, 1]>", (6, 1, 3, 3)),  # ncnn adds single channels in another order
        ("Conv<group = 8>", (16, 1, 3, 3)),
        ("Conv<group = 8, dilations = [2, 2]>", (8, 1, 3, 3)),
        ("Conv<group = 8, pads = [2, 1, 1, 1]>", (8, 1, 3, 3)),  # no tap meets the image alone
        ('Conv<group = 8, auto_pad = "SAME_UPPER">', (8, 1, 3, 3)),
        ("Conv<group = 8>", (8, 1, 7, 7)),  # more taps than one block adds
        ("Conv<group = 4>", (8, 2, 3, 3)),
    ],
)
def test_other_layers_stay_as_they_are(operator: str, shape: tuple[int, ...]) -> None:
    """Layers whose order is another, or cannot be had."""
    assert kinds(rewritten(tap_by_tap, layer(operator, shape))) == ["Conv"]


def test_a_computed_bias_leaves_a_layer_as_it_is() -> None:
    """Only a constant one can become a weight."""
    text = """g (float[1, 8, 5, 5] x, float[8] given) => (float[1, 8, 3, 3] y) {
        b = Neg(given) y = Conv<group = 8>(x, w, b) }"""
    assert kinds(rewritten(tap_by_tap, network(text, {"w": normal(1, 8, 1, 3, 3)}))) == ["Neg", "Conv"]


def test_an_empty_name_is_no_bias() -> None:
    """As some exporters write it."""
    model = layer("Conv<group = 8>", (8, 1, 3, 3), bias=False)
    model.graph.node[0].input.append("")
    assert kinds(rewritten(tap_by_tap, model)) == ["Pad", "Gather", "Conv"]
