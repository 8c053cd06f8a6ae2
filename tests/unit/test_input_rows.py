"""Rows of input and matrices of weights make what the runtime makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, normal

from sandglass.graph.io import save_graph
from sandglass.graph.layers import Facts, facts
from sandglass.graph.session import GraphSession
from sandglass.quantization import input_rows

# By name: attributes of a convolution and its weight's shape, for an input of 8 channels.
CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...]]] = {
    "plain": ("", (6, 8, 3, 3)),
    "1x1": ("", (6, 8, 1, 1)),
    "1x1 strided": ("strides = [2, 2]", (6, 8, 1, 1)),
    "strided": ("strides = [2, 1], pads = [1, 1, 1, 1]", (6, 8, 3, 3)),
    "dilated": ("dilations = [2, 3], pads = [2, 3, 2, 3]", (6, 8, 3, 3)),
    "strided and dilated": ("strides = [1, 3], dilations = [3, 2]", (6, 8, 3, 3)),
    "padded asymmetrically": ("pads = [0, 1, 2, 2]", (6, 8, 3, 3)),
    "padded asymmetrically and strided": ("pads = [2, 0, 1, 2], strides = [2, 3]", (6, 8, 3, 3)),
    "oblong kernel": ("pads = [0, 2, 0, 1]", (6, 8, 1, 5)),
    "grouped": ("group = 2, pads = [1, 1, 1, 1]", (6, 4, 3, 3)),
    "depthwise": ("group = 8, strides = [2, 2], pads = [1, 1, 1, 1]", (8, 1, 3, 3)),
    "depthwise, two filters a channel": ("group = 8", (16, 1, 3, 3)),
}
TRANSPOSED: dict[str, tuple[str, tuple[int, ...]]] = {
    "plain": ("", (8, 6, 4, 4)),
    "oblong": ("", (8, 6, 2, 3)),
    "strided": ("strides = [2, 2]", (8, 6, 4, 4)),
    "grouped": ("group = 2", (8, 3, 4, 4)),
    "grouped to one": ("group = 4", (8, 1, 4, 4)),
    "depthwise": ("group = 8", (8, 1, 4, 4)),
}
MATRICES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "gemm": ("Gemm(x, w, b)", (5, 8), (8, 6)),
    "gemm, turned": ("Gemm<transB = 1>(x, w, b)", (5, 8), (6, 8)),
    "square": ("Gemm(x, w, b)", (5, 6), (6, 6)),
    "square, turned": ("Gemm<transB = 1>(x, w, b)", (5, 6), (6, 6)),
    "product": ("MatMul(x, w)", (5, 8), (8, 6)),
    "product of a sequence": ("MatMul(x, w)", (1, 5, 8), (8, 6)),
}


def one_layer(
    call: str, shape: tuple[int, ...], weight: tuple[int, ...], channels: int, path: Path
) -> tuple[onnx.ModelProto, Facts]:
    """A network of one layer `y`, saved at `path`, and its facts."""
    text = f"g (float[{', '.join(map(str, shape))}] x) => (float[N] y) {{ y = {call} }}"
    used = {"w": normal(1, *weight)} | ({"b": normal(2, channels)} if "b)" in call else {})
    model = network(text, used)
    save_graph(model, path)
    return model, facts(model)["y"]


def made(rows: np.ndarray, fact: Facts, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Outputs of rows, (rows, channels), for all that is not transposed."""
    matrix, channels = input_rows.weight_matrix(weight, fact), input_rows.row_channels(fact)
    outputs = np.empty((len(rows), fact.channels), np.float32)
    for group in range(len(matrix)):
        outputs[:, channels[group]] = rows[:, group] @ matrix[group].T + bias[channels[group]]
    return outputs


def matched(found: np.ndarray, expected: np.ndarray) -> list[int]:
    """For each of the vectors `found` the place of the one in `expected` that it is; each is there once at most."""
    distance = np.abs(found[:, None] - expected[None]).max(2)
    places = distance.argmin(1)
    assert distance.min(1).max() < 1e-4
    assert len(set(places.tolist())) == len(places)
    return places.tolist()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rows_of_a_convolution_make_its_output(name: str, tmp_path: Path) -> None:
    """Rows times matrix plus bias is the runtime's output, at all places, each once."""
    attributes, shape = CONVOLUTIONS[name]
    call = f"Conv<{attributes}>(x, w, b)" if attributes else "Conv(x, w, b)"
    _, fact = one_layer(call, (1, 8, 13, 11), shape, shape[0], tmp_path / "g.onnx")
    batch = {"x": normal(3, 1, 8, 13, 11)}
    expected = GraphSession(tmp_path / "g.onnx").run(batch)["y"][0].reshape(shape[0], -1).T
    rows = input_rows.draw(tmp_path / "g.onnx", {"y": fact}, [batch], 1)["y"]
    assert rows.shape == (len(expected), fact.group, int(np.prod(shape[1:])))
    assert rows.dtype == np.float32
    found = made(rows, fact, normal(1, *shape), normal(2, shape[0]))
    assert sorted(matched(found, expected)) == list(range(len(expected)))


def test_places_are_drawn_over_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more places than are kept, every image gives as many rows, from places all over it, by the seed."""
    monkeypatch.setattr(input_rows, "MOST_ROWS", 60)
    _, fact = one_layer("Conv<pads = [1, 1, 1, 1]>(x, w, b)", (1, 8, 13, 11), (6, 8, 3, 3), 6, tmp_path / "g.onnx")
    batches = [{"x": normal(3 + i, 1, 8, 13, 11)} for i in range(3)]
    rows = input_rows.draw(tmp_path / "g.onnx", {"y": fact}, batches, 3)["y"]
    assert len(rows) == 60
    session, found = GraphSession(tmp_path / "g.onnx"), made(rows, fact, normal(1, 6, 8, 3, 3), normal(2, 6))
    for i, batch in enumerate(batches):
        places = matched(found[20 * i : 20 * i + 20], session.run(batch)["y"][0].reshape(6, -1).T)
        assert max(places) > 100
        assert min(places) < 40
    again, other = (input_rows.draw(tmp_path / "g.onnx", {"y": fact}, batches, 3, seed)["y"] for seed in (0, 1))
    np.testing.assert_array_equal(again, rows)
    assert np.abs(other - rows).max() > 0.1


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers with long rows keep fewer of them, and every image gives one at least."""
    monkeypatch.setattr(input_rows, "FLOATS", 1000)
    for call, shape, weight, columns in (
        ("Conv(x, w, b)", (1, 8, 13, 11), (6, 8, 3, 3), 72),
        ("Conv<group = 2>(x, w, b)", (1, 8, 13, 11), (6, 4, 3, 3), 72),
        ("ConvTranspose(x, w, b)", (1, 8, 13, 11), (8, 6, 4, 4), 8),
        ("ConvTranspose<group = 2>(x, w, b)", (1, 8, 13, 11), (8, 3, 4, 4), 8),
        ("Gemm(x, w, b)", (500, 8), (8, 6), 8),
    ):
        _, fact = one_layer(call, shape, weight, 6, tmp_path / "g.onnx")
        rows = input_rows.draw(tmp_path / "g.onnx", {"y": fact}, [{"x": normal(3, *shape)}] * 2, 2)["y"]
        assert rows[0].size == columns, call
        assert 500 < rows.size <= 1000, call
    monkeypatch.setattr(input_rows, "FLOATS", 1)
    assert len(input_rows.draw(tmp_path / "g.onnx", {"y": fact}, [{"x": normal(3, 500, 8)}] * 2, 2)["y"]) == 2


@pytest.mark.parametrize("name", TRANSPOSED)
def test_rows_of_a_transposed_convolution_make_its_taps(name: str, tmp_path: Path) -> None:
    """An image of one pixel spreads it over the kernel: rows times matrix are the taps of each output channel."""
    attributes, shape = TRANSPOSED[name]
    call = f"ConvTranspose<{attributes}>(x, w, b)" if attributes else "ConvTranspose(x, w, b)"
    batches = [{"x": normal(10 + i, 1, 8, 1, 1)} for i in range(4)]
    channels = shape[1] * int(attributes.partition("group = ")[2] or 1)
    _, fact = one_layer(call, (1, 8, 1, 1), shape, channels, tmp_path / "g.onnx")
    assert fact.channels == channels
    rows = input_rows.draw(tmp_path / "g.onnx", {"y": fact}, batches, len(batches))["y"]
    matrix, bias = input_rows.weight_matrix(normal(1, *shape), fact), normal(2, channels)
    assert rows.shape == (len(batches), *matrix.shape[::2])
    taps = np.einsum("rgk,gok->rgo", rows, matrix)
    np.testing.assert_array_equal(
        input_rows.row_channels(fact).ravel(), np.repeat(np.arange(channels), shape[2] * shape[3])
    )
    session = GraphSession(tmp_path / "g.onnx")
    for batch, row in zip(batches, taps, strict=True):
        found = row.reshape(channels, *shape[2:]) + bias[:, None, None]
        np.testing.assert_allclose(found, session.run(batch)["y"][0], atol=1e-5)


def test_pixels_of_a_transposed_convolution_are_drawn_all_over(tmp_path: Path) -> None:
    """Its rows are the pixels of its input, each once."""
    _, fact = one_layer("ConvTranspose<group = 2>(x, w, b)", (1, 8, 7, 5), (8, 3, 2, 2), 6, tmp_path / "g.onnx")
    image = normal(3, 1, 8, 7, 5)
    rows = input_rows.draw(tmp_path / "g.onnx", {"y": fact}, [{"x": image}], 1)["y"]
    assert sorted(matched(rows.reshape(35, 8), image[0].reshape(8, -1).T)) == list(range(35))


@pytest.mark.parametrize("name", MATRICES)
def test_rows_of_a_matrix_make_its_product(name: str, tmp_path: Path) -> None:
    """Gemm with its weight either way round, and MatMul: rows times matrix plus bias is the runtime's output."""
    call, shape, weight = MATRICES[name]
    _, fact = one_layer(call, shape, weight, 6, tmp_path / "g.onnx")
    batch = {"x": normal(3, *shape)}
    rows = input_rows.draw(tmp_path / "g.onnx", {"y": fact}, [batch], 1)["y"]
    bias = normal(2, 6) if "b)" in call else np.zeros(6, np.float32)
    found = made(rows, fact, normal(1, *weight), bias)
    expected = GraphSession(tmp_path / "g.onnx").run(batch)["y"].reshape(-1, 6)
    assert sorted(matched(found, expected)) == list(range(5))


def test_matrix_is_turned_back(tmp_path: Path) -> None:
    """`from_matrix` gives back the weight from its matrix, whatever the layer."""
    calls = [(f"Conv<{a}>(x, w, b)".replace("<>", ""), (1, 8, 13, 11), s, s[0]) for a, s in CONVOLUTIONS.values()]
    calls += [(f"ConvTranspose<{a}>(x, w, b)".replace("<>", ""), (1, 8, 3, 3), s, s[1]) for a, s in TRANSPOSED.values()]
    calls += [(call, shape, weight, 6) for call, shape, weight in MATRICES.values()]
    for call, shape, weight, channels in calls:
        _, fact = one_layer(call, shape, weight, channels, tmp_path / "g.onnx")
        values = normal(1, *weight)
        matrix = input_rows.weight_matrix(values, fact)
        assert matrix.shape[:2] == input_rows.row_channels(fact).shape, call
        np.testing.assert_array_equal(input_rows.from_matrix(matrix, fact), values, call)


def test_every_channel_has_its_scale(tmp_path: Path) -> None:
    """Along its axis a weight has as many entries as the layer has output channels, or as one group of it."""
    for attributes, shape in TRANSPOSED.values():
        call = f"ConvTranspose<{attributes}>(x, w, b)".replace("<>", "")
        _, fact = one_layer(call, (1, 8, 3, 3), shape, shape[1], tmp_path / "g.onnx")
        assert shape[fact.axis] in (fact.channels, fact.channels // fact.group), attributes


@pytest.mark.parametrize(
    ("call", "shape", "weight"),
    [
        ('Conv<auto_pad = "SAME_UPPER">(x, w)', (1, 8, 13, 11), (6, 8, 3, 3)),
        ("Conv(x, w)", (1, 8, 13), (6, 8, 3)),
        ("Gemm<transA = 1>(x, w)", (8, 5), (8, 6)),
        ("Gemm<alpha = 0.5>(x, w)", (5, 8), (8, 6)),
        ("Gemm<beta = 0.5>(x, w, b)", (5, 8), (8, 6)),
        ("MatMul(x, w)", (1, 5, 8), (1, 8, 6)),
    ],
)
def test_layers_whose_rows_cannot_be_drawn_are_left_out(
    call: str, shape: tuple[int, ...], weight: tuple[int, ...], tmp_path: Path
) -> None:
    """Padding that is not told, other ranks, factors beside the weights: such a layer is rounded to nearest."""
    model, fact = one_layer(call, shape, weight, 6, tmp_path / "g.onnx")
    assert input_rows.drawable(model, {"y": fact}) == {}


def test_bias_that_is_no_constant_or_of_another_shape_is_left_out(tmp_path: Path) -> None:
    """A layer whose bias is computed, or differs from row to row, cannot take up a mean error."""
    for bias, kept in (("b", True), ("one", True), ("row", True), ("n", False), ("rows", False)):
        text = f"g (float[5, 8] x) => (float[N] y) {{ n = Neg(b) y = Gemm(x, w, {bias}) }}"
        constants = {"b": normal(1, 6), "one": normal(2, 1), "row": normal(3, 1, 6), "rows": normal(4, 5, 6)}
        model = network(text, {"w": normal(0, 8, 6), **constants})
        assert list(input_rows.drawable(model, facts(model))) == (["y"] if kept else []), bias
