"""Small networks for tests, written as ONNX's text with weights as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper


def network(text: str, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The graph `text`, in which constants are names of `weights`; others of them are left out.

    A node is named as its first output.
    """
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values, np.float32), name)
        for name, values in weights.items()
        if name in read
    )
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def rewritten(rewrite: Callable[..., None], model: onnx.ModelProto, *arguments: object) -> onnx.ModelProto:
    """The model after a rewrite, which changes it in place."""
    rewrite(model, *arguments)
    return model


def normal(seed: int, *shape: int) -> np.ndarray:
    """Values of a normal distribution, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def uneven(seed: int, *shape: int, axis: int = 0, span: float = 100.0) -> np.ndarray:
    """Weights whose channels along `axis` differ in range by the factor `span`."""
    sizes = np.geomspace(1 / span, 1, shape[axis]) * (2 / np.prod(shape[1:])) ** 0.5
    return normal(seed, *shape) * sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))]).astype(np.float32)
