"""Outputs that are transposed: the same names and values, only where it pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")


def _convolution(channels: int, open_sides: bool = False) -> Any:
    """A model of one convolution with a bias, whose output is named."""
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    given = ops.parameter([-1, 4, -1, -1] if open_sides else [-1, 4, 6, 5], np.float32, name="image")
    weight, bias = rng.normal(size=(channels, 4, 3, 3)), rng.normal(size=(1, channels, 1, 1))
    sums = ops.convolution(given, ops.constant(weight.astype(np.float32)), [1, 1], [1, 1], [1, 1], [1, 1])
    made = ops.add(sums, ops.constant(bias.astype(np.float32)))
    made.output(0).get_tensor().set_names({"heatmaps"})
    return openvino.Model([made], [given])


def _run(model: Any, image: np.ndarray) -> np.ndarray:
    """Its output in float32."""
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return np.array(openvino.Core().compile_model(model, "CPU", exact)([image])["heatmaps"])


def _operators(model: Any) -> list[str]:
    """Kinds of its nodes."""
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize("images", [1, 2])
def test_a_transposed_output_has_its_name_and_values(images: int) -> None:
    """To the last bit, and for several images at once."""
    from sandglass.backends._openvino_outputs import transpose_outputs

    image = np.random.default_rng(1).normal(size=(images, 4, 6, 5)).astype(np.float32)
    changed = transpose_outputs(_convolution(17))
    assert _operators(changed).count("Transpose") == 2
    result = _run(changed, image)
    assert result.shape == (images, 17, 6, 5)
    np.testing.assert_array_equal(result, _run(_convolution(17), image))


@pytest.mark.parametrize(("channels", "open_sides"), [(4, False), (65, False), (17, True)])
def test_few_or_many_channels_and_open_sides_are_left_as_they_are(channels: int, open_sides: bool) -> None:
    """Where it would not pay, or sizes are not known."""
    from sandglass.backends._openvino_outputs import transpose_outputs

    assert "Transpose" not in _operators(transpose_outputs(_convolution(channels, open_sides)))
