"""Which weights the layers of ncnn have, against what the installed ncnn loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import FormatError
from sandglass.formats import ncnn_bin, ncnn_param
from sandglass.formats.ncnn_weights import BLOBS, WITHOUT_WEIGHTS

# Parameters of one layer of each kind and storage; those of kinds that load nothing in a case are there too.
PARAMETERS = {
    "Convolution": ["0=4 1=3 5=1 6=108", "0=4 1=1 6=12", "0=4 1=1 5=1 6=12 8=2", "0=4 1=1 6=12 8=102", "0=4 1=1 19=1"],
    "Convolution1D": ["0=4 1=3 5=1 6=36", "0=4 1=3 19=1"],
    "Convolution3D": ["0=4 1=3 5=1 6=324"],
    "ConvolutionDepthWise": [
        "0=4 1=3 5=1 6=36 7=4", "0=4 1=1 6=4 7=4 8=1", "0=4 1=1 6=4 7=4 8=2", "0=4 1=1 6=4 7=4 8=101",
        "0=4 1=1 6=8 7=2 8=102", "0=4 1=1 7=4 19=1",
    ],
    "ConvolutionDepthWise1D": ["0=4 1=3 5=1 6=12 7=4", "0=4 1=3 7=4 19=1"],
    "ConvolutionDepthWise3D": ["0=4 1=3 5=1 6=108 7=4"],
    "Deconvolution": ["0=4 1=3 5=1 6=108", "0=4 1=3 28=1"],
    "Deconvolution1D": ["0=4 1=3 5=1 6=36", "0=4 1=3 28=1"],
    "Deconvolution3D": ["0=4 1=3 5=1 6=324"],
    "DeconvolutionDepthWise": ["0=4 1=3 5=1 6=36 7=4", "0=4 1=3 7=4 28=1"],
    "DeconvolutionDepthWise1D": ["0=4 1=3 5=1 6=12 7=4", "0=4 1=3 7=4 28=1"],
    "DeconvolutionDepthWise3D": ["0=4 1=3 5=1 6=108 7=4"],
    "DeformableConv2D": ["0=4 1=3 5=1 6=108"],
    "InnerProduct": ["0=4 1=1 2=12", "0=4 2=12", "0=4 1=1 2=12 8=2"],
    "Gemm": [
        "7=3 8=4 9=5", "5=1 7=3 8=4 9=5", "3=1 5=1 6=1 7=3 8=4 9=5 10=4", "4=1 7=3 8=4 9=5", "2=1 4=1 7=3 8=4 9=5",
        *(f"5=1 6=1 7=3 8=4 9=5 10={form}" for form in (-1, 0, 1, 2, 3)),
        "4=1 5=1 6=1 7=3 8=4 9=5 10=-1 18=2", "3=1 5=1 6=1 8=4 9=64 10=4 18=400", "3=1 5=1 6=1 8=4 9=70 10=-1 18=611",
        "3=1 5=1 6=1 8=4 9=300 10=4 18=812",
    ],
    "MultiHeadAttention": [
        "0=8 1=2 2=64", "0=8 1=2 2=96 3=6 4=10", "0=8 1=2 2=64 18=2", "0=8 1=2 2=64 18=400",
        "0=8 1=2 2=96 3=6 4=70 18=610",
    ],
    "Embed": ["0=4 1=7 3=28", "0=4 1=7 2=1 3=28"],
    "LSTM": ["0=4 1=80", "0=4 1=160 2=2", "0=4 1=120 3=6", "0=4 1=80 2=1 8=2"],
    "GRU": ["0=4 1=60", "0=4 1=120 2=2", "0=4 1=60 8=2"],
    "RNN": ["0=4 1=20", "0=4 1=40 2=2", "0=4 1=20 8=2"],
    "BatchNorm": ["0=4"],
    "Bias": ["0=4"],
    "PReLU": ["0=4"],
    "Normalize": ["3=4"],
    "Scale": ["0=4", "0=4 1=1", "0=-233"],
    "MemoryData": ["0=3", "0=3 1=2", "0=3 1=2 2=5", "0=3 1=2 11=4 2=5", "0=3 21=0", "0=3 1=2 21=0", ""],
    "Padding": ["0=1 6=4", "0=1"],
    "LayerNorm": ["0=4", "0=4 2=0"],
    "InstanceNorm": ["0=4", "0=4 2=0"],
    "GroupNorm": ["0=2 1=4", "0=2 1=4 3=0"],
    "RMSNorm": ["0=4", "0=4 2=0"],
    "Quantize": ["0=4", ""],
    "Dequantize": ["0=4", "0=4 1=4", ""],
    "Requantize": ["0=4 1=4", "0=4 1=1 2=4", ""],
}  # fmt: skip
CASES = [(kind, parameters) for kind, every in PARAMETERS.items() for parameters in every]


def files(kind: str, parameters: str, folder: Path) -> tuple[Path, bytes]:
    """A `.param` of the layer and of a bias after it, and bytes that fit both as they are understood here."""
    path = folder / "model.param"
    layer = f"{kind} layer 0 1 x {parameters}" if kind == "MemoryData" else f"{kind} layer 1 1 in0 x {parameters}"
    path.write_text(f"7767517\n3 3\nInput in0 0 1 in0\n{layer}\nBias end 1 1 x y 0=1\n")
    param = ncnn_param.read_param(path)
    data = b""
    for entry in param.layers:
        for count, has_tag in BLOBS.get(entry.kind, lambda _: [])(entry):
            data += bytes(4 * has_tag) + np.full(count, 0.5, np.float32).tobytes()
    return path, data


@pytest.mark.parametrize(("kind", "parameters"), CASES)
def test_the_installed_ncnn_loads_as_many_bytes(kind: str, parameters: str, tmp_path: Path) -> None:
    """The bias after the layer is whole with all the bytes, and not with four fewer."""
    ncnn = pytest.importorskip("ncnn")
    path, data = files(kind, parameters, tmp_path)
    for content, loads in ((data, True), (data[:-4], False)):
        (tmp_path / "model.bin").write_bytes(content)
        net = ncnn.Net()
        assert net.load_param(str(path)) == 0
        assert (net.load_model(str(tmp_path / "model.bin")) == 0) == loads


@pytest.mark.parametrize(("kind", "parameters"), CASES)
def test_every_kind_is_split_and_joined_to_the_byte(kind: str, parameters: str, tmp_path: Path) -> None:
    """Blobs put one after the other are the file again; in half precision they are read again."""
    path, data = files(kind, parameters, tmp_path)
    param = ncnn_param.read_param(path)
    parts = ncnn_bin.split(param, memoryview(data))
    ncnn_bin.write_bin(parts, tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == data
    small = [ncnn_bin.halved(layer, blobs) for layer, blobs in zip(param.layers, parts, strict=True)]
    ncnn_bin.write_bin(small, tmp_path / "half.bin")
    again = ncnn_bin.read_bin(param, tmp_path / "half.bin")
    assert [len(blobs) for blobs in again] == [len(blobs) for blobs in parts]


def test_every_layer_of_the_installed_ncnn_is_known() -> None:
    """Each place in ncnn's list of layers that it can make is that of a kind known here."""
    ncnn = pytest.importorskip("ncnn")
    known = {ncnn.layer_to_index(kind) for kind in {*BLOBS, *WITHOUT_WEIGHTS}}
    assert {index for index in range(256) if ncnn.create_layer(index) is not None} <= known
    assert set(PARAMETERS) == set(BLOBS)


@pytest.mark.parametrize(
    "layer", ["LSTM l 1 1 in0 x 0=0 1=8", "MultiHeadAttention l 1 1 in0 x 2=8", "GRU l 1 1 in0 x 1=8"]
)
def test_a_layer_of_size_0_is_refused(layer: str) -> None:
    """What would divide by zero is an error of the file."""
    param = ncnn_param.parse_param(f"7767517\n2 2\nInput in0 0 1 in0\n{layer}\n")
    with pytest.raises(FormatError, match=r"layer l is a \w+ of size 0"):
        ncnn_bin.split(param, memoryview(bytes(64)))


@pytest.mark.parametrize("layer", ["PReLU l 1 1 in0 x 0=-4", "InnerProduct l 1 1 in0 x 0=1 2=-1"])
def test_a_negative_number_of_weights_is_refused(layer: str) -> None:
    """Blobs never overlap."""
    param = ncnn_param.parse_param(f"7767517\n2 2\nInput in0 0 1 in0\n{layer}\n")
    with pytest.raises(FormatError, match="layer l"):
        ncnn_bin.split(param, memoryview(bytes(64)))


def test_a_kind_that_is_not_ncnns_is_named_where_the_bytes_do_not_fit() -> None:
    """Its weights are not known, so the file may be right."""
    param = ncnn_param.parse_param("7767517\n2 2\nInput in0 0 1 in0\nYoloV5Focus f 1 1 in0 x\n")
    assert ncnn_bin.split(param, memoryview(b"")) == [[], []]
    with pytest.raises(FormatError, match="the sizes of the weights of YoloV5Focus are unknown"):
        ncnn_bin.split(param, memoryview(bytes(64)))
