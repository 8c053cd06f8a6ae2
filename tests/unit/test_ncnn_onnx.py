"""ncnn models as ONNX: every kind of layer against ncnn itself, and what is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import normal

from sandglass.core.errors import FormatError, ParityError
from sandglass.formats.ncnn_bin import floats_blob, int8_blob, write_bin
from sandglass.graph.io import load_graph, static_outputs
from sandglass.sources import ncnn_onnx
from sandglass.sources.bring_up import bring_up_file

pytest.importorskip("ncnn")

SIZE = (12, 16)
STEM = "Convolution c0 1 1 in s0 0=8 1=3 4=1 5=1 6=216 9=1"  # what other layers are tried on
WEIGHTS = {"c0": [(216, True), (8, False)]}
# Layers by name: lines after the stem with their last blob called `out`, and their weights.
LAYERS: dict[str, tuple[list[str], dict[str, list[tuple[int, bool]]]]] = {
    "strides, dilation and a clamp": (
        ["Convolution c1 1 1 s0 out 0=5 1=3 11=2 2=2 12=1 3=2 13=1 4=2 15=1 14=0 16=1 5=1 6=240 9=3 -23310=2,-0.5,0.7"],
        {"c1": [(240, True), (5, False)]},
    ),
    "depthwise": (["ConvolutionDepthWise c1 1 1 s0 out 0=8 1=3 4=1 6=72 7=8"], {"c1": [(72, True)]}),
    "groups": (["ConvolutionDepthWise c1 1 1 s0 out 0=6 1=1 6=24 7=2"], {"c1": [(24, True)]}),
    "transposed": (
        ["Deconvolution c1 1 1 s0 out 0=5 1=3 3=2 4=1 18=1 19=1 5=1 6=360 9=1"],
        {"c1": [(360, True), (5, False)]},
    ),
    "transposed depthwise": (["DeconvolutionDepthWise c1 1 1 s0 out 0=8 1=4 3=2 4=1 6=128 7=8"], {"c1": [(128, True)]}),
    "pooling to the edge": (["Pooling p 1 1 s0 out 0=0 1=3 2=2"], {}),
    "pooling inside": (["Pooling p 1 1 s0 out 0=0 1=3 11=2 2=2 3=1 5=1"], {}),
    "attention": (
        [
            "Split s 1 2 s0 a b",
            "Pooling p 1 1 a g 0=1 4=1",
            "Convolution c1 1 1 g h 0=8 1=1 5=1 6=64",
            "HardSigmoid hs 1 1 h i 0=1.666667e-01 1=5.000000e-01",
            "Reshape r 1 1 i j 0=1 1=1 2=-1",
            "BinaryOp m 2 1 b j out 0=2",
        ],
        {"c1": [(64, True), (8, False)]},
    ),
    "scalars and sums": (
        ["Split s 1 2 s0 a b", "BinaryOp x 1 1 a c 0=1 1=1 2=0.25", "BinaryOp y 1 1 b d 0=3 1=1 2=1.5",
         "BinaryOp z 2 1 c d out 0=0"],
        {},
    ),
    "joined and enlarged": (
        ["Split s 1 2 s0 a b", "HardSwish h 1 1 a c 0=1.666667e-01 1=5.000000e-01", "HardSwish i 1 1 b d 0=0.3 1=0.4",
         "Concat j 2 1 c d e 0=0", "Interp k 1 1 e out 0=1 1=2.0 2=3.0"],
        {},
    ),
    "likelihoods": (["Pooling p 1 1 s0 g 0=0 4=1", "Softmax q 1 1 g out"], {}),
    "sigmoid": (["Sigmoid q 1 1 s0 out"], {}),
}  # fmt: skip


def write(folder: Path, lines: list[str], weights: dict[str, list[tuple[int, bool]]]) -> Path:
    """A model: input, stem, and the layers."""
    layers = ["Input in 0 1 in", STEM, *lines]
    blobs = sum(int(line.split()[3]) for line in layers)
    path = folder / "model.param"
    path.write_text("\n".join(["7767517", f"{len(layers)} {blobs}", *layers]) + "\n")
    parts, every = [], {**WEIGHTS, **weights}
    for line in layers:
        values = [(normal(len(parts) + i, count) / 3, tagged) for i, (count, tagged) in enumerate(
            every.get(line.split()[1], []))]  # fmt: skip
        parts.append([memoryview(bytes(4 * tagged) + bytes(floats_blob(v))) for v, tagged in values])
    write_bin(parts, path.with_suffix(".bin"))
    return path


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_what_ncnn_computes(name: str, tmp_path: Path) -> None:
    """The rewritten model is compared with ncnn as it is written, and comes up like any ONNX file."""
    source = write(tmp_path, *LAYERS[name])
    bring_up_file(source, tmp_path / "graph.onnx", SIZE)
    model = load_graph(tmp_path / "graph.onnx")
    assert list(static_outputs(model)) == ["out"]
    assert [value.name for value in model.graph.input] == ["in"]


def test_comparison_with_ncnn_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is rewritten as another one is found out."""
    source = write(tmp_path, *LAYERS["scalars and sums"])
    monkeypatch.setitem(ncnn_onnx.ELEMENTWISE, 1, "Add")
    with pytest.raises(ParityError, match=r"model\.param as ONNX has a relative difference of .* to ncnn"):
        ncnn_onnx.rewrite(source, SIZE, tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("line", "weights", "message"),
    [
        ("Quantize q 1 1 s0 out", {"q": [(1, False)]}, "layer q .* is a Quantize, which is not"),
        ("BinaryOp q 1 1 s0 out 0=6 1=1 2=2.0", {}, "layer q has the unsupported BinaryOp 6"),
        ("Pooling q 1 1 s0 out 0=1 1=2 2=2", {}, "layer q has an unsupported kind of pooling"),
        ("Interp q 1 1 s0 out 0=2 1=2.0 2=2.0", {}, "layer q has an unsupported kind of resizing"),
        ("Reshape q 1 1 s0 out 0=-1", {}, "layer q has an unsupported kind of reshape"),
        ("Convolution q 1 1 s0 out 0=4 1=1 6=32 9=4", {"q": [(32, True)]}, "layer q has the unsupported activation 4"),
        ("Convolution q 1 1 s0 out 0=4 1=3 4=-233 6=288", {"q": [(288, True)]}, "layer q has padding that depends"),
        ("DeconvolutionDepthWise q 1 1 s0 out 0=4 1=1 6=16 7=2", {"q": [(16, True)]}, "convolution with groups"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(
    line: str, weights: dict[str, list[tuple[int, bool]]], message: str, tmp_path: Path
) -> None:
    """A layer, or a setting of one, that would be rewritten wrongly is refused by the layer's name."""
    source = write(tmp_path, [line], weights)
    with pytest.raises(FormatError, match=message):
        ncnn_onnx.rewrite(source, SIZE, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_int8_model_is_no_source(tmp_path: Path) -> None:
    """Weights that were rounded already are refused."""
    source = write(tmp_path, [], {})
    text = source.read_text().replace("9=1", "9=1 8=2")
    source.write_text(text)
    scales = [floats_blob(np.ones(8)), floats_blob(np.ones(1))]
    write_bin([[int8_blob(np.ones(216)), floats_blob(np.ones(8)), *scales]], source.with_suffix(".bin"))
    with pytest.raises(FormatError, match="layer c0 has no float weights"):
        ncnn_onnx.rewrite(source, SIZE, tmp_path / "out.onnx")


def test_missing_weights_are_told(tmp_path: Path) -> None:
    """A .param without its .bin."""
    source = write(tmp_path, [], {})
    source.with_suffix(".bin").unlink()
    with pytest.raises(FormatError, match=r"model\.bin: the file does not exist"):
        bring_up_file(source, tmp_path / "graph.onnx", SIZE)


def test_onnx_files_are_left_alone(tmp_path: Path) -> None:
    """Only other formats are rewritten."""
    from sandglass.sources import foreign

    assert foreign.as_onnx(tmp_path / "a.onnx", (4, 4), tmp_path) == tmp_path / "a.onnx"
    assert not list(tmp_path.iterdir())
