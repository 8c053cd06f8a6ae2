"""Artifacts beside their graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from sandglass.artifacts.parity import Reference
from sandglass.backends import BuildNotes, Capabilities
from sandglass.core.compare import SMALLEST, relative_difference
from sandglass.core.errors import ParityError
from sandglass.quantization.spec import Spec
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Relu(x) }
"""


def reference(folder: Path, samples: list[np.ndarray]) -> Reference:
    """Of a graph that is a ReLU."""
    onnx.save(parser.parse_model(GRAPH), folder / "graph.onnx")
    card = Card("a", "topdown-pose", Input((4, 4), (0, 0, 0), (1, 1, 1)), graph=folder / "graph.onnx")
    return Reference(Source(card, folder / "graph.onnx"), samples)


def backend(error: float) -> Any:
    """A runtime that is off by noise of this size."""
    random = np.random.default_rng(0)
    run = lambda feed: {"y": np.maximum(feed["x"], 0) + error * random.standard_normal((1, 3, 4, 4))}  # noqa: E731
    spec, session = Spec((), asymmetric=True), SimpleNamespace(run=run)
    return SimpleNamespace(SPEC=spec, CAPABILITIES=Capabilities(), open=lambda *_: session)


def test_an_input_without_an_answer_does_not_decide(tmp_path: Path) -> None:
    """Where the graph gives next to nothing, noise correlates with nothing; all inputs together do."""
    samples = [np.full((1, 3, 4, 4), -1.0, np.float32), np.random.default_rng(1).standard_normal((1, 3, 4, 4))]
    checked = reference(tmp_path, [sample.astype(np.float32) for sample in samples])
    check = checked.check(backend(0.03), tmp_path, BuildNotes(), "int8")
    assert check.correlation > 0.99
    assert check.outputs["y"].snr_db > 20
    assert check.outputs["y"].cosine > 0.99
    with pytest.raises(ParityError, match="dB signal over noise"):
        checked.check(backend(2.0), tmp_path, BuildNotes(), "int8")


def test_differences_near_zero_are_absolute() -> None:
    """Outputs that are all next to nothing are compared with a fixed size, others with their largest value."""
    assert relative_difference(np.array([1e-7, 0]), np.array([0, 0])) == pytest.approx(1e-7 / SMALLEST)
    assert relative_difference(np.array([4.0, 1]), np.array([4.0, 2])) == pytest.approx(0.25)


def test_a_probability_that_hides_an_error_is_compared_before_the_softmax(tmp_path: Path) -> None:
    """The largest class stays at 0.99999 whatever happens to the others; their logits show it."""
    graph = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Softmax<axis = 1>(x) }"""
    onnx.save(parser.parse_model(graph), tmp_path / "graph.onnx")
    card = Card("a", "topdown-pose", Input((4, 4), (0, 0, 0), (1, 1, 1)), graph=tmp_path / "graph.onnx")
    logits = np.broadcast_to(np.array([12.0, 0.0, -3.0], np.float32).reshape(1, 3, 1, 1), (1, 3, 4, 4)).copy()
    checked = Reference(Source(card, tmp_path / "graph.onnx"), [logits])

    def check(*others: float) -> Any:
        values = np.broadcast_to(np.array([12.0, *others], np.float32).reshape(1, 3, 1, 1), (1, 3, 4, 4))
        probabilities = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
        session = SimpleNamespace(run=lambda feed: {"y": probabilities})
        runtime: Any = SimpleNamespace(SPEC=None, CAPABILITIES=Capabilities(), open=lambda *_: session)
        return checked.check(runtime, tmp_path, BuildNotes(), "int8")

    assert check(0.0, -3.0).outputs["y"].snr_db > 60
    with pytest.raises(ParityError, match=r"signal over noise.*correlation 1\.0000"):
        check(-9.0, 6.0)
