"""The parts of outputs that are compared: joined tensors apart, probabilities as logits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import normal

from sandglass.graph.output_parts import OutputPart, output_parts

DETECTOR = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4, 5] boxes, float[1, 3, 5] s)
    => (float[1, 5, 7] y, float[1, 15] p) {
    scores = Sigmoid(s) joined = Concat<axis = 1>(boxes, scores) y = Transpose<perm = [0, 2, 1]>(joined)
    q = Softmax<axis = 1>(s) shape = Constant<value = int64[2] {1, 15}>() p = Reshape(q, shape) }"""
PLAIN = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }"""


def test_scores_are_apart_from_boxes_and_compared_before_the_sigmoid() -> None:
    """Through a Transpose after the Concat, and a Reshape after the Softmax."""
    boxes, scores, classes = output_parts(onnx.parser.parse_model(DETECTOR))
    assert boxes == OutputPart("boxes", "y", "values", 2, 0, 4)
    assert scores == OutputPart("scores", "y", "logit", 2, 4, 7)
    assert classes == OutputPart("p", "p", "log")
    logits = normal(1, 1, 3, 5)
    outputs = {"y": np.concatenate([normal(2, 1, 4, 5), 1 / (1 + np.exp(-logits))], axis=1).transpose(0, 2, 1)}
    np.testing.assert_allclose(scores.values(outputs), logits.transpose(0, 2, 1), rtol=1e-4)
    np.testing.assert_array_equal(boxes.values(outputs), outputs["y"][..., :4])


def test_an_output_is_one_part_as_it_is() -> None:
    assert output_parts(onnx.parser.parse_model(PLAIN)) == (OutputPart("y", "y"),)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_probabilities_at_their_ends_stay_finite(probability: float) -> None:
    """float32 rounds them to 0 and 1; their logits end where the next numbers are."""
    outputs = {"y": np.array([probability], np.float32)}
    assert np.isfinite(OutputPart("y", "y", "logit").values(outputs)).all()
    assert np.isfinite(OutputPart("y", "y", "log").values(outputs)).all()
