"""Inputs that have an initializer, as IR 3 and earlier require them: they are weights, and no longer inputs."""

from __future__ import annotations

import onnx

from sandglass.sources.rewrites import Stage

STAGE: Stage = "exported"
AFTER: tuple[str, ...] = ()


def rewrite(model: onnx.ModelProto) -> None:
    """Remove every input that has an initializer."""
    weights = {entry.name for entry in model.graph.initializer}
    for place in reversed([i for i, value in enumerate(model.graph.input) if value.name in weights]):
        del model.graph.input[place]
