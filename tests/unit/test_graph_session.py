"""Running graphs, and what a user's mistake there looks like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.cli.conformance.networks import save_graph
from sandglass.core.errors import GraphError
from sandglass.graph.session import GraphSession

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 32, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return save_graph(tmp_path_factory.mktemp("execute") / "small.onnx")


def test_intermediate_tensors_are_those_of_the_network(graph: Path) -> None:
    """Tensors inside the graph come out under their names, and the graph's own output is the same beside them."""
    session = GraphSession(graph, outputs=["c1", "r1", "heatmaps"])
    found = session.run({"image": IMAGE})
    assert session.input_names == ["image"]
    assert list(found) == session.output_names == ["c1", "r1", "heatmaps"]
    np.testing.assert_array_equal(found["r1"], np.maximum(found["c1"], 0))
    assert found["c1"].min() < 0
    np.testing.assert_allclose(found["heatmaps"], GraphSession(graph).run({"image": IMAGE})["heatmaps"], atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"needs the input image, but got \[\]"),
        ({"picture": IMAGE}, r"needs the input image, but got \['picture'\]"),
        ({"image": IMAGE[:, :, :4]}, "invalid dimensions"),
        ({"image": IMAGE.astype(np.float64)}, "tensor\\(double\\)"),
    ],
)
def test_wrong_input_is_named(graph: Path, inputs: dict[str, np.ndarray], message: str) -> None:
    """A missing, misnamed or misshapen input raises GraphError, not the runtime's own exception."""
    with pytest.raises(GraphError, match=message):
        GraphSession(graph).run(inputs)


def test_unknown_tensor_is_named(graph: Path) -> None:
    """Asking for a tensor that no node makes names it."""
    with pytest.raises(GraphError, match="computes no tensor ghost"):
        GraphSession(graph, outputs=["ghost"])


def test_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    """Junk raises GraphError with the path."""
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 100)
    with pytest.raises(GraphError, match=r"junk\.onnx cannot be run"):
        GraphSession(tmp_path / "junk.onnx")
