"""Trained networks from four exporters: brought up, and refused when a weight is not what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sandglass.core.errors import ParityError
from sandglass.deployment import deploy
from sandglass.graph.io import load_graph, static_inputs, static_outputs
from sandglass.sources.agreement import compare
from sandglass.sources.bring_up import bring_up_file
from sandglass.sources.card import Card, Input

pytestmark = pytest.mark.slow

MODELS = [
    ("classification/imagenet-sample/efficientnet-lite0.onnx", (224, 224), (1, 1000)),
    ("classification/cifar10/resnet20.onnx", (32, 32), (1, 10)),
    ("pose/simplepose/simplepose-nano.onnx", (256, 192), (1, 17, 64, 48)),
    ("text/weights/ch_PP-OCRv4_det_infer.onnx", (320, 320), (1, 1, 320, 320)),  # rounds most coarsely of all
    ("text/weights/ch_PP-OCRv4_det_infer.onnx", (736, 1280), (1, 1, 736, 1280)),
]


@pytest.mark.parametrize(("file", "size", "output"), MODELS)
def test_model_comes_up_equal(
    real_data: Path, tmp_path: Path, file: str, size: tuple[int, int], output: tuple[int, ...]
) -> None:
    """A static graph of a current opset with the expected output; with one filter 3 % off it is refused."""
    source, graph = real_data / "data" / file, tmp_path / "graph.onnx"
    bring_up_file(source, graph, size)
    model = load_graph(graph)
    assert list(static_inputs(model).values()) == [(1, 3, *size)]
    assert list(static_outputs(model).values()) == [output]
    assert model.opset_import[0].version >= 17
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}

    first = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(i for i in model.graph.initializer if i.name == first.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[np.abs(values).reshape(len(values), -1).max(1).argmax()] *= 1.03
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, graph)
    with pytest.raises(ParityError, match="changed by"):
        compare(source, graph, static_inputs(model))


def test_results_are_called_as_the_graph_says(real_data: Path, tmp_path: Path) -> None:
    """A detector of which a runtime knows one output by two names."""
    source = real_data / "data" / "wild" / "yunet" / "yunet_n_320_320.onnx"
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    card = Card("yunet", "topdown-pose", Input((320, 320), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), graph=source)
    outcomes = deploy(card, ["onnxruntime:fp32", "openvino:fp32", "ncnn:fp32"], tmp_path)
    expected = set(static_outputs(load_graph(tmp_path / "onnxruntime-fp32" / "model.onnx")))
    assert "cls_8" in expected
    for outcome in outcomes:
        assert outcome.artifact is not None, outcome.error
        found = outcome.artifact.open(1).run({outcome.artifact.input_name: np.zeros((1, 3, 320, 320), np.float32)})
        assert set(found) == expected
