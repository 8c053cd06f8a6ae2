"""ncnn's files: read, written and made int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.core.errors import FormatError
from sandglass.formats import ncnn_bin, ncnn_int8, ncnn_param, ncnn_table
from sandglass.formats.ncnn_table import Scales

NAME = st.text("abcdefgh_/.0123456789", min_size=1, max_size=12)
SPACE = st.sampled_from([" ", "   ", "\t"])


@st.composite
def params(draw: st.DrawFn) -> str:
    """Files with unknown layers, odd spacing, array parameters and several blobs."""
    lines, blobs = [], 0
    for i in range(draw(st.integers(1, 6))):
        tops = [f"t{i}_{k}" for k in range(draw(st.integers(1, 3)))]
        bottoms = [draw(NAME) for _ in range(draw(st.integers(0, 2)))]
        values = draw(st.lists(st.sampled_from(["0=3", "1=0.5", "-23310=2,0.0,6.0", "9=abc", "31=64"]), unique=True))
        space = draw(SPACE)
        words = [draw(st.sampled_from(["Strange", "ReLU", "Swish"])), draw(NAME), str(len(bottoms)), str(len(tops))]
        lines.append(space.join([*words, *bottoms, *tops, *values]) + draw(st.sampled_from(["\n", " \n"])))
        blobs += len(tops)
    return f"7767517\n{len(lines)} {blobs}\n" + "".join(lines)


@given(text=params())
def test_param_is_written_as_it_was_read(text: str) -> None:
    """Whatever is in a .param, reading and writing gives the same bytes."""
    assert ncnn_param.parse_param(text).text() == text


@given(text=params(), value=st.integers(-5, 500))
def test_setting_a_parameter_changes_one_layer_only(text: str, value: int) -> None:
    """After setting 8 on the first layer it reads back, and all other lines are untouched."""
    param = ncnn_param.parse_param(text)
    param.layers[0].set(8, value)
    again = ncnn_param.parse_param(param.text())
    assert again.layers[0].integer(8, -1) == value
    assert again.layers[0].tops == param.layers[0].tops
    assert [layer.text for layer in again.layers[1:]] == [
        layer.text for layer in ncnn_param.parse_param(text).layers[1:]
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not start with 7767517"),
        ("7767517\n2 1\nReLU a 0 1 x\n", "but its header says 2 and 1"),
        ("7767517\n1 1\nReLU a 1 1 x\n", "fewer blobs"),
        ("7767517\n1 1\nReLU a\n", "is not a layer"),
        ("7767517\n1 1\nReLU a 0 1 x y z\n", "is not a layer"),
    ],
)
def test_broken_param_is_refused(text: str, message: str) -> None:
    """A malformed file names its line and what is wrong."""
    with pytest.raises(FormatError, match=message):
        ncnn_param.parse_param(text)


CONV = "Convolution conv 1 1 in0 out0 0=4 1=3 11=3 4=1 5=1 6=108 9=1"
NETWORK = f"7767517\n2 2\nInput in0 0 1 in0\n{CONV}\n"


def network(channels: int = 3) -> tuple[ncnn_param.Param, list[list[memoryview]], np.ndarray]:
    """One 3x3 convolution to 4 channels with bias and ReLU, its blobs, and its weights."""
    random, count = np.random.default_rng(0), 36 * channels
    weights, bias = random.standard_normal(count).astype(np.float32), random.standard_normal(4).astype(np.float32)
    data = bytes(4) + weights.tobytes() + bias.tobytes()
    param = ncnn_param.parse_param(NETWORK)
    param.layers[1].set(6, count)
    return param, ncnn_bin.split(param, memoryview(data)), weights


def test_bin_is_split_and_joined_to_the_byte(tmp_path: Path) -> None:
    """Blobs put one after the other are the file again."""
    param, parts, weights = network()
    ncnn_bin.write_bin(parts, tmp_path / "a.bin")
    again = ncnn_bin.read_bin(param, tmp_path / "a.bin")
    assert [bytes(blob) for blob in again[1]] == [bytes(blob) for blob in parts[1]]
    np.testing.assert_array_equal(ncnn_bin.float_weights(again[1][0]), weights)


@given(cut=st.integers(-40, 40).filter(bool))
def test_bin_of_another_length_is_refused(cut: int) -> None:
    """Bytes that are missing or left over are told, with the numbers."""
    param, parts, _ = network()
    data = b"".join(bytes(blob) for blob in parts[1])
    data = data[:cut] if cut < 0 else data + bytes(cut)
    with pytest.raises(FormatError, match="bytes"):
        ncnn_bin.split(param, memoryview(data))


@given(st.dictionaries(NAME.filter(lambda n: not n.endswith("_param_0")),
                       st.lists(st.integers(1, 10**6), min_size=1, max_size=5), max_size=5))  # fmt: skip
def test_table_reads_back(entries: dict[str, list[int]]) -> None:
    """Scales written as a table are read as the same scales."""
    scales = {name: Scales(np.array(v, np.float32) / 64, v[0] / 64) for name, v in entries.items()}
    again = ncnn_table.parse_table(ncnn_table.table_text(scales).splitlines())
    assert set(again) == set(scales)
    for name, entry in scales.items():
        np.testing.assert_allclose(again[name].weight, entry.weight, atol=1e-6)
        assert again[name].activation == pytest.approx(entry.activation, abs=1e-6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["a_param_0 1 2"], "one of its two lines"), (["a_param_0 nan", "a 1"], "finite"), (["a x"], "line 1")],
)
def test_broken_table_is_refused(lines: list[str], message: str) -> None:
    """A table that is cut off or holds no scales is refused by line."""
    with pytest.raises(FormatError, match=message):
        ncnn_table.parse_table(lines)


def test_winograd_is_told_from_the_parameters() -> None:
    """Only a 3x3 convolution of stride 1 with enough channels, and not masked, runs by Winograd."""

    def layer(text: str) -> ncnn_param.Layer:
        return ncnn_param.parse_param(f"7767517\n1 1\n{text}\n").layers[0]

    wide = "Convolution c 0 1 x 0=16 1=3 6=2304"
    assert ncnn_int8.runs_winograd(layer(wide))
    assert not ncnn_int8.runs_winograd(layer(f"{wide} 31=64"))
    assert not ncnn_int8.runs_winograd(layer(f"{wide} 3=2"))
    assert not ncnn_int8.runs_winograd(layer(f"{wide} 2=2"))
    assert not ncnn_int8.runs_winograd(layer("Convolution c 0 1 x 0=4 1=3 6=144"))
    assert not ncnn_int8.runs_winograd(layer("ConvolutionDepthWise c 0 1 x 0=16 1=3 6=144 7=16"))


def away_from_zero(values: np.ndarray) -> np.ndarray:
    """Integers of scaled values, as ncnn rounds them."""
    return np.clip(np.trunc(values + np.copysign(0.5, values)), -127, 127)


@pytest.mark.parametrize("channels", [3, 8, 16])
@pytest.mark.parametrize("border", [0.0, -1.5, 1.25])
def test_int8_layer_computes_what_the_arithmetic_says(channels: int, border: float, tmp_path: Path) -> None:
    """ncnn loads the int8 files written here, and its result is that of integers computed in numpy.

    Whatever it pads with, and however many channels its kernels take at a time.
    """
    ncnn = pytest.importorskip("ncnn")
    param, parts, weights = network(channels)
    param.layers[1].set(ncnn_int8.PAD_VALUE, border)
    bias = np.frombuffer(parts[1][1], np.float32)
    image = np.random.default_rng(1).standard_normal((channels, 6, 5)).astype(np.float32)
    activation = 127 / float(np.abs(image).max())
    scale = ncnn_int8.weight_scales(weights, param.layers[1], 127)
    ncnn_int8.quantize(param, parts, {"conv": Scales(scale, activation)})
    (tmp_path / "a.param").write_text(param.text())
    ncnn_bin.write_bin(parts, tmp_path / "a.bin")
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(tmp_path / "a.param")) == 0
    assert net.load_model(str(tmp_path / "a.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())
    found = np.array(extractor.extract("out0")[1])

    edges, around = ((0, 0), (1, 1), (1, 1)), float(away_from_zero(np.array(border * activation)))
    integers = np.pad(away_from_zero(image * np.float32(activation)), edges, constant_values=around)
    kernel = away_from_zero(weights.reshape(4, -1) * scale[:, None]).reshape(4, channels, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(integers, (3, 3), axis=(1, 2))
    sums = np.einsum("chwij,ocij->ohw", windows, kernel)
    expected = np.maximum(sums / (activation * scale[:, None, None]) + bias[:, None, None], 0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_chained_layers_hand_on_integers() -> None:
    """A layer read only by int8 convolutions gets the reader's scale; one that is read by anything else does not."""
    text = (
        "7767517\n6 7\nInput in0 0 1 in0\nConvolution a 1 1 in0 x 0=8 1=1 6=24\nSplit s 1 2 x x1 x2\n"
        "Convolution b 1 1 x1 y 0=8 1=1 6=64\nConvolution c 1 1 x2 z 0=8 1=1 6=64\nConvolution d 1 1 y w 0=8 1=1 6=64\n"
    )
    param = ncnn_param.parse_param(text)
    scales = {name: Scales(np.ones(8, np.float32), 2.0 if name in "bc" else 3.0) for name in "abcd"}
    assert ncnn_int8.chained(param, scales) == {"a": 2.0, "b": 3.0}
    scales["c"] = Scales(np.ones(8, np.float32), 2.5)
    assert ncnn_int8.chained(param, scales) == {"b": 3.0}
    del scales["c"], scales["d"]
    assert ncnn_int8.chained(param, scales) == {}


def test_scales_for_another_model_are_refused() -> None:
    """A table with an unknown layer or another number of channels does not touch a model silently."""
    param, parts, _ = network()
    with pytest.raises(FormatError, match=r"not in the .param"):
        ncnn_int8.quantize(param, parts, {"other": Scales(np.ones(4, np.float32), 1.0)})
    with pytest.raises(FormatError, match="4 channels"):
        ncnn_int8.quantize(param, parts, {"conv": Scales(np.ones(5, np.float32), 1.0)})
