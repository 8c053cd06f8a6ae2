"""Initializers among the inputs (IR 3 and earlier): taken off the input list, so that they are constants."""

from __future__ import annotations

import onnx


def weights_are_no_inputs(model: onnx.ModelProto) -> None:
    """Drop every input that has an initializer, in place."""
    weights = {initializer.name for initializer in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
