"""Upsampling of integers as copies of pixels: the same numbers, wherever a Resize repeats what it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import network, rewritten

from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.lowering.nearest_upsampling import repeat_pixels

GRID = {"step": np.array(0.05), "coarse": np.array(0.1)}
# By name: the Resize's attributes and its factor.
REPEATS = {
    "as torch writes it": (
        'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
        2,
    ),
    "by default": ('mode = "nearest"', 2),
    "by eight": ('nearest_mode = "round_prefer_ceil"', 8),
    "by three": ('coordinate_transformation_mode = "pytorch_half_pixel"', 3),
    "to the nearest of two": ('coordinate_transformation_mode = "asymmetric"', 2),
}
# By name: its attributes, its factors, and the scale of what it makes.
STAYS = {
    "to the nearest of four": ('coordinate_transformation_mode = "asymmetric"', (4, 4), "step"),
    "further": ('coordinate_transformation_mode = "asymmetric", nearest_mode = "ceil"', (2, 2), "step"),
    "from corner to corner": ('coordinate_transformation_mode = "align_corners"', (2, 2), "step"),
    "linear": ('mode = "linear"', (2, 2), "step"),
    "unequal sides": ('mode = "nearest"', (2, 4), "step"),
    "no whole factor": ('mode = "nearest"', (1.5, 1.5), "step"),
    "smaller": ('mode = "nearest"', (0.5, 0.5), "step"),
    "another grid": ('mode = "nearest"', (2, 2), "coarse"),
}


def resized(attributes: str, factors: tuple[float, float], scale: str, shape: str = "1, 3, 6, 4") -> onnx.ModelProto:
    """A Resize between rounding nodes."""
    text = f"""g (float[{shape}] x) => (float[N, C, H, W] y) {{
        q = QuantizeLinear(x, step, zero) d = DequantizeLinear(q, step, zero)
        r = Resize<{attributes}>(d, , factors)
        s = QuantizeLinear(r, {scale}, zero2) y = DequantizeLinear(s, {scale}, zero2) }}"""
    model = network(text, {**GRID, "factors": np.array([1, 1, *factors])})
    for name in ("zero", "zero2"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(100, np.uint8), name))
    return model


def same(model: onnx.ModelProto, folder: Path, shape: tuple[int, ...] = (1, 3, 6, 4)) -> list[str]:
    """Operators after the change, which changes no number."""
    found = []
    for part in ("before", "after"):
        save_graph(model, folder / f"{part}.onnx")
        x = np.random.default_rng(0).uniform(-4, 6, shape).astype(np.float32)
        found.append(GraphSession(folder / f"{part}.onnx", optimize=False).run({"x": x})["y"])
        model = rewritten(repeat_pixels, model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(*found)
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", REPEATS)
def test_what_repeats_becomes_copies(name: str, tmp_path: Path) -> None:
    """Bytes are copied, a row for each of a pixel's rows."""
    attributes, factor = REPEATS[name]
    copies = ["Transpose", *["Concat"] * factor, "Concat", "Reshape", "Transpose"]
    expected = ["QuantizeLinear", *copies, "DequantizeLinear"]
    assert same(resized(attributes, (factor, factor), "step"), tmp_path) == expected


@pytest.mark.parametrize("name", STAYS)
def test_what_does_not_stays(name: str, tmp_path: Path) -> None:
    """Other modes, other factors, and integers that would be rounded again."""
    around = ["QuantizeLinear", "DequantizeLinear"]
    assert same(resized(*STAYS[name]), tmp_path) == [*around, "Resize", *around]


def test_open_sizes_stay(tmp_path: Path) -> None:
    """Copies have to know how many there are."""
    assert "Resize" in same(resized('mode = "nearest"', (2, 2), "step", "1, 3, H, W"), tmp_path, (1, 3, 5, 7))


def test_several_of_one_tensor_keep_their_names_apart(tmp_path: Path) -> None:
    """One tensor in two sizes, as parallel branches read it."""
    model = resized('mode = "nearest"', (2, 2), "step")
    more = resized('mode = "nearest"', (4, 4), "step")
    for node in more.graph.node[2:]:
        node.name, node.output[0] = f"{node.name}4", f"{node.output[0]}4"
        node.input[:] = [f"{name}4" if name in ("factors", "r", "s") else name for name in node.input]
        model.graph.node.append(node)
    four = onnx.numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "factors4")
    model.graph.initializer.append(four)
    model.graph.output.append(onnx.helper.make_tensor_value_info("y4", onnx.TensorProto.FLOAT, list("NCHW")))
    assert same(model, tmp_path).count("Transpose") == 4
