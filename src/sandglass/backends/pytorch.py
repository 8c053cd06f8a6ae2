"""PyTorch: the architecture itself with its trained weights, in eager mode. Runs zoo models only."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sandglass import discover
from sandglass.backends import DEFAULTS, FLOAT, PROFILED_RUNS, Arrays, LayerRun, Settings, Source, chosen
from sandglass.errors import BackendError, BackendUnavailable

INSTALL = "pip install 'sandglass[torch]'"
PRECISIONS = ("fp32",)
PURPOSE = "deploy"
SPEC = None
SETTINGS: Mapping[str, tuple[Any, ...]] = {"channels_last": (False, True)}
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


def open(
    folder: Path, notes: Mapping[str, Any], threads: int, settings: Settings = DEFAULTS, callers: int = 1
) -> TorchSession:
    """The module in evaluation mode with the artifact's weights."""
    import torch
    from safetensors.numpy import load_file

    torch.set_num_threads(threads)
    architecture = discover.load("models", notes["model"])
    module = architecture.build(**notes["arguments"])
    state = {key: torch.from_numpy(value) for key, value in load_file(folder / WEIGHTS).items()}
    module.load_state_dict(state)
    if chosen(SETTINGS, settings)["channels_last"]:
        module = module.to(memory_format=torch.channels_last)
    return TorchSession(module.eval(), architecture.OUTPUTS)


def layers(folder: Path, notes: Mapping[str, Any], threads: int, inputs: Arrays) -> list[LayerRun]:
    """Every module without modules in it, in the order it is called, timed around its call."""
    session = open(folder, notes, threads)
    calls: list[tuple[str, str, int, int, float]] = []
    started: list[float] = []

    def after(name: str, module: Any, result: Any) -> None:
        elapsed = time.perf_counter() - started.pop()
        weight = getattr(module, "weight", None)
        terms = weight[0].numel() if weight is not None and weight.ndim > 1 else 0
        calls.append((name, type(module).__name__, terms * result[:1].numel(), terms, elapsed))

    for name, module in session.module.named_modules():
        if not any(module.children()):
            module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
            module.register_forward_hook(lambda module, _, result, name=name: after(name, module, result))
    for _ in range(1 + PROFILED_RUNS):
        session.run(inputs)
    rows = len(calls) // (1 + PROFILED_RUNS)
    times = np.array([call[-1] for call in calls[rows:]]).reshape(PROFILED_RUNS, rows)  # without the first run
    medians = np.median(times, axis=0) * 1e3
    return [
        LayerRun(name, operator, FLOAT, macs, float(spent), terms=terms)
        for (name, operator, macs, terms, _), spent in zip(calls, medians, strict=False)
    ]


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
