"""Face detectors exported from TensorFlow: NHWC inputs, and pools that are padded to the SAME size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.core import discover
from sandglass.core.errors import BackendUnavailable
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.graph.shapes import forget_shapes
from sandglass.sources.bring_up import convert, simplify
from sandglass.sources.rewrites import run_stage
from sandglass.sources.source import Source

pytestmark = pytest.mark.slow

BACKENDS = ("ncnn", "onnxruntime", "openvino")


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("network", "side"), [("onet", 48), ("pnet", 12)])
def test_same_padding_is_right_on_every_runtime(
    network: str, side: int, name: str, real_data: Path, tmp_path: Path
) -> None:
    """The artifact computes what ONNX Runtime computes from the file."""
    backend = discover.load("backends", name)
    try:
        backend.available()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    model, shape = load_graph(real_data / f"data/wild/mtcnn/{network}.onnx"), (1, side, side, 3)
    (value,) = model.graph.input
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
    forget_shapes(model)
    save_graph(model, tmp_path / "original.onnx")
    image = {value.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    expected = GraphSession(tmp_path / "original.onnx").run(image)
    run_stage("exported", model)
    save_graph(simplify(convert(model)), tmp_path / "graph.onnx")
    (tmp_path / "out").mkdir()
    notes = backend.build(Source(None, tmp_path / "graph.onnx"), "fp32", tmp_path / "out", None)
    for output, values in backend.open(tmp_path / "out", notes, 1).run(image).items():
        np.testing.assert_allclose(values, expected[output], atol=1e-5)
