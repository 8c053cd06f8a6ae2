"""Small networks for tests, written in ONNX's text format with weights as arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from sandglass.cli.conformance.networks import network, normal

__all__ = ["network", "normal", "rewritten", "uneven"]


def rewritten(rewrite: Callable[..., None], model: onnx.ModelProto, *arguments: object) -> onnx.ModelProto:
    """The model after a rewrite, which changes it in place."""
    rewrite(model, *arguments)
    return model


def uneven(seed: int, *shape: int, axis: int = 0, span: float = 100.0) -> np.ndarray:
    """Weights whose channels along `axis` differ in range by the factor `span`."""
    sizes = np.geomspace(1 / span, 1, shape[axis]) * (2 / np.prod(shape[1:])) ** 0.5
    return normal(seed, *shape) * sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))]).astype(np.float32)
