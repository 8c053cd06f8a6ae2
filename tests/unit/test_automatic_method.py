"""The threshold method is the one that suits the network and its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import network, normal

from sandglass.graph.io import save_graph
from sandglass.graph.session import GraphSession
from sandglass.quantization.automatic_method import TARGETS, automatic_plan
from sandglass.quantization.make_plan import make_plan
from sandglass.quantization.output_noise import decibels, noise, run
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate

TEXT = "g (float[1, 4, 16, 16] x) => (float[1, 4, 16, 16] y) { a = Conv(x, w) b = Relu(a) y = Conv(b, v) }"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A network of two layers."""
    save_graph(network(TEXT, {"w": normal(0, 4, 4, 1, 1), "v": normal(1, 4, 4, 1, 1)}), tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def quality(graph: Path, plan: Plan, images: list[np.ndarray]) -> float:
    """Signal-to-noise ratio in dB, the mean over both kinds of target."""
    batches = [{"x": image} for image in images]
    expected = run(GraphSession(graph), batches)
    return float(np.mean([decibels(noise(expected, run(simulate(graph, plan, spec), batches))) for spec in TARGETS]))


def test_rare_large_values_of_one_image_do_not_make_all_others_coarse(graph: Path) -> None:
    """Where a few pixels of one image of many are sixty times as large, the range is not theirs."""
    images = [normal(10 + i, 1, 4, 16, 16) for i in range(16)]
    outlier = images[0].copy()
    outlier[..., :2, :2] *= 60
    batches = [outlier, *images[1:]]
    found, widest = automatic_plan(graph, batches), make_plan(graph, batches, "minmax")
    assert quality(graph, found, images) > quality(graph, widest, images) + 10


def test_values_that_the_network_needs_are_kept(graph: Path) -> None:
    """Where every image has a few large values, and they make the output, they are not clipped as kl clips them."""
    images = [normal(10 + i, 1, 4, 16, 16) for i in range(12)]
    for image in images:
        image[..., 0, 0] *= 60
    found, clipped = automatic_plan(graph, images), make_plan(graph, images, "kl")
    assert quality(graph, found, images) > quality(graph, clipped, images) + 10
