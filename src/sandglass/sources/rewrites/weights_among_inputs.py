"""Remove inputs that are weights. IR version 3 and earlier require that each initializer is also an input."""

from __future__ import annotations

import onnx

from sandglass.sources.rewrites import Stage

STAGE: Stage = "exported"
AFTER: tuple[str, ...] = ()


def rewrite(model: onnx.ModelProto) -> None:
    """Remove each input that has an initializer, in place."""
    weights = {entry.name for entry in model.graph.initializer}
    for place in reversed([i for i, value in enumerate(model.graph.input) if value.name in weights]):
        del model.graph.input[place]
