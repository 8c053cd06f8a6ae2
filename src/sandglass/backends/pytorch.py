"""PyTorch: the architecture itself with its trained weights, in eager mode. Runs zoo models only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sandglass import discover
from sandglass.backends import Arrays, Source
from sandglass.errors import BackendError, BackendUnavailable

INSTALL = "pip install 'sandglass[torch]'"
PRECISIONS = ("fp32",)
PURPOSE = "deploy"
SPEC = None
WEIGHTS = "weights.safetensors"


def available() -> str:
    """The version of PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable("PyTorch is not installed", INSTALL) from error
    return str(torch.__version__)


def build(source: Source, precision: str, folder: Path, plan: object) -> dict[str, Any]:
    """Copy the weights. Raises BackendError for a model that came as an ONNX file: it has no module to run."""
    if source.card.model is None or source.weights is None:
        raise BackendError(
            f"{source.card.name} is an ONNX file, and PyTorch runs zoo models only", "choose another backend"
        )
    shutil.copyfile(source.weights, folder / WEIGHTS)
    return {"model": source.card.model, "arguments": source.card.arguments}


def open(folder: Path, notes: Mapping[str, Any], threads: int, streams: int = 1) -> TorchSession:
    """The module in evaluation mode with the artifact's weights."""
    import torch
    from safetensors.numpy import load_file

    torch.set_num_threads(threads)
    architecture = discover.load("models", notes["model"])
    module = architecture.build(**notes["arguments"])
    state = {key: torch.from_numpy(value) for key, value in load_file(folder / WEIGHTS).items()}
    module.load_state_dict(state)
    return TorchSession(module.eval(), architecture.OUTPUTS)


class TorchSession:
    def __init__(self, module: Any, outputs: tuple[str, ...]) -> None:
        self.module, self.outputs = module, outputs

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; a batch runs as one batch."""
        import torch

        (array,) = inputs.values()
        with torch.inference_mode():
            result = self.module(torch.from_numpy(np.ascontiguousarray(array)))
        tensors = result if isinstance(result, tuple | list) else (result,)
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, tensors, strict=True)}
