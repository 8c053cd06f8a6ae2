"""ncnn's formats on real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import FormatError
from sandglass.formats import ncnn2int8, ncnn_bin, ncnn_int8, ncnn_param, ncnn_table


def test_real_files_survive_to_the_byte(real_data: Path) -> None:
    """Every .param and .bin of the collection is written as it was read."""
    files = sorted(real_data.rglob("*.param"))
    assert len(files) >= 4
    for path in files:
        param = ncnn_param.read_param(path)
        assert param.text().encode() == path.read_bytes()
        parts = ncnn_bin.read_bin(param, path.with_suffix(".bin"))
        assert b"".join(bytes(b) for blobs in parts for b in blobs) == path.with_suffix(".bin").read_bytes()


def test_int8_file_is_the_one_of_the_cpp_tools(real_data: Path) -> None:
    """From SqueezeNet's weights and table comes ncnn2int8's file: same terms and scales, and the same weights.

    The fp32 file stores halves that were cut off, not rounded, so each integer made from it lies between that of the
    half and that of the next larger half.
    """
    folder = real_data / "data/classification/imagenet-sample"
    param = ncnn_param.read_param(folder / "squeezenet_v1.1.ncnn.param")
    parts = ncnn_bin.read_bin(param, folder / "squeezenet_v1.1.ncnn.bin")
    floats = [ncnn_bin.float_weights(blobs[0]) if blobs else None for blobs in parts]
    scales = ncnn_table.read_table(folder / "squeezenet_v1.1.table")
    ncnn_int8.quantize(param, parts, scales)
    expected = ncnn_param.read_param(folder / "squeezenet_v1.1-int8.ncnn.param")
    reference = ncnn_bin.read_bin(expected, folder / "squeezenet_v1.1-int8.ncnn.bin")
    for i, (own, other) in enumerate(zip(param.layers, expected.layers, strict=True)):
        assert own.parameters.get(8) == other.parameters.get(8), own.name
        assert [bytes(blob) for blob in parts[i][1:]] == [bytes(blob) for blob in reference[i][1:]], own.name
        if parts[i]:
            made, wanted = (np.abs(np.frombuffer(blobs[i][0], np.int8)[4:].astype(int)) for blobs in (parts, reference))
            next_half = np.abs(floats[i]).reshape(len(scales[own.name].weight), -1) * (1 + 2**-10)
            limit = np.trunc(next_half * scales[own.name].weight[:, None] + 0.5).clip(max=127).ravel()
            assert (made <= wanted).all()
            assert (wanted[: limit.size] <= limit).all()
            assert (made == wanted).mean() > 0.98


def test_table_is_written_as_the_cpp_tools_write_it(real_data: Path) -> None:
    """A table made by ncnn2table is read and written to the byte."""
    path = real_data / "data/classification/imagenet-sample/squeezenet_v1.1.table"
    assert ncnn_table.table_text(ncnn_table.read_table(path)) == path.read_text()


def test_ncnn2int8_takes_the_arguments_of_the_cpp_tool(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes the terms of the C++ tool's file; a table of another model is one line, and no files."""
    folder = real_data / "data/classification/imagenet-sample"
    fp32, out = folder / "squeezenet_v1.1.ncnn", tmp_path / "int8"
    given = [f"{fp32}.param", f"{fp32}.bin", f"{out}.param", f"{out}.bin"]
    assert ncnn2int8.main([*given, str(folder / "squeezenet_v1.1.table")]) == 0
    made, wanted = (ncnn_param.read_param(p) for p in (Path(given[2]), folder / "squeezenet_v1.1-int8.ncnn.param"))
    assert [layer.parameters.get(8) for layer in made.layers] == [layer.parameters.get(8) for layer in wanted.layers]
    ncnn_bin.read_bin(made, Path(given[3]))
    (tmp_path / "other.table").write_text("conv9_param_0 1.0\nconv9 1.0\n")
    given[2:] = [str(tmp_path / "x.param"), str(tmp_path / "x.bin")]
    assert ncnn2int8.main([*given, str(tmp_path / "other.table")]) == 2
    assert "conv9, which is not in the .param" in capsys.readouterr().err
    assert not list(tmp_path.glob("*x*"))


def test_scales_that_would_overflow_mask_winograd(real_data: Path) -> None:
    """Eight-bit scales on a 3x3 layer of stride 1 mask Winograd there; six-bit ones leave it."""
    folder = real_data / "data/classification/imagenet-sample"
    for levels, masked in ((ncnn_int8.ALL_LEVELS, True), (ncnn_int8.WINOGRAD_LEVELS, False)):
        param = ncnn_param.read_param(folder / "squeezenet_v1.1.ncnn.param")
        parts = ncnn_bin.read_bin(param, folder / "squeezenet_v1.1.ncnn.bin")
        found = [i for i, layer in enumerate(param.layers) if ncnn_int8.runs_winograd(layer)]
        assert len(found) == 8
        weights = {i: ncnn_bin.float_weights(parts[i][0]) for i in found}
        scales = {
            param.layers[i].name: ncnn_table.Scales(
                ncnn_int8.weight_scales(weights[i][: param.layers[i].integer(6, 0)], param.layers[i], levels), 1.0
            )
            for i in found
        }
        ncnn_int8.quantize(param, parts, scales, chain=False)
        assert [param.layers[i].integer(31, 0) == 64 for i in found] == [masked] * 8


def test_files_of_two_models_do_not_fit(real_data: Path) -> None:
    """A .param with another model's .bin is refused with the number of bytes."""
    param = ncnn_param.read_param(real_data / "data/pose/simplepose/simplepose-nano.ncnn.param")
    with pytest.raises(FormatError, match="bytes"):
        ncnn_bin.read_bin(param, real_data / "data/text/weights/PP_OCRv5_mobile_det.ncnn.bin")
