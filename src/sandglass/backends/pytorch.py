"""PyTorch: the architecture itself with its trained weights. It runs zoo models only.

It runs in eager mode on the CPU. On a CUDA device it uses CUDA graphs, one for each shape of a batch. An fp16 artifact
has half of the bytes. Its arithmetic is half precision in channels-last layout on CUDA, and float32 on the CPU.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from sandglass.backends import (
    DEFAULTS,
    FLOAT,
    PROFILED_RUNS,
    Arrays,
    Backend,
    BuildNotes,
    Capabilities,
    LayerRun,
    OfferedSettings,
    Settings,
    all_settings,
)
from sandglass.core.distribution import install_command
from sandglass.core.errors import BackendError, BackendUnavailable
from sandglass.core.json_values import JsonValue
from sandglass.models import load_model
from sandglass.sources.source import Source

if TYPE_CHECKING:
    import torch

    Tensors = tuple[torch.Tensor, ...]
    Capture = tuple[torch.cuda.CUDAGraph, torch.Tensor, Tensors]  # a graph, its input and its outputs

INSTALL = install_command("torch")
PRECISIONS = ("fp32", "fp16")
PURPOSE: Final = "deploy"
SPEC = None
SETTINGS: OfferedSettings = {"channels_last": (False, True)}
CAPABILITIES = Capabilities(dynamic_shapes=True, runs_graphs=False)
WEIGHTS = "weights.safetensors"
LARGEST = 65504.0  # largest float16


class Notes(BuildNotes, frozen=True):
    """The architecture in models/ and its arguments.

    `half` is true if an fp16 artifact computes in half precision, and None for other precisions.
    """

    model: str
    arguments: dict[str, JsonValue]
    half: bool | None = None


def available() -> str:
    """The version of PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable("PyTorch is not installed", INSTALL) from error
    return str(torch.__version__)


def build(source: Source, precision: str, folder: Path, plan: object) -> Notes:
    """Copy the weights. For fp16, tensors whose values fit are stored in float16.

    Raises BackendError for a model from an ONNX file, which has no PyTorch module.
    """
    from safetensors.numpy import load_file, save_file

    if source.card.model is None or source.weights is None:
        raise BackendError(
            f"{source.card.name} is an ONNX file, but PyTorch runs only zoo models", "choose another backend"
        )
    if precision == "fp16":
        state = load_file(source.weights)
        fits = {key: float(np.abs(value).max(initial=0)) <= LARGEST for key, value in state.items()}
        save_file({key: value.astype(np.float16) if value.dtype == np.float32 and fits[key] else value
                   for key, value in state.items()}, folder / WEIGHTS)  # fmt: skip
    else:
        shutil.copyfile(source.weights, folder / WEIGHTS)
    half = not source.wide if precision == "fp16" else None
    return Notes(model=source.card.model, arguments=dict(source.card.arguments), half=half)


def open(
    folder: Path, notes: Notes, threads: int, settings: Settings = DEFAULTS, callers: int = 1
) -> TorchSession | CudaSession:
    """The module in evaluation mode with the artifact's weights, on the CUDA device if there is one.

    An fp16 artifact with values that are too large for float16 computes in float32 on CUDA too.
    """
    import torch

    torch.set_num_threads(threads)
    module, outputs = _module(folder, notes)
    cuda = torch.cuda.is_available()
    if all_settings(SETTINGS, settings)["channels_last"] or cuda:
        module = module.to(memory_format=torch.channels_last)
    if not cuda:
        return TorchSession(module, outputs)
    return CudaSession(module.to("cuda", torch.float16 if notes.half else torch.float32), outputs)


def _module(folder: Path, notes: Notes) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The module in evaluation mode, in float32 on the CPU, and the names of its outputs."""
    import torch
    from safetensors.numpy import load_file

    architecture = load_model(notes.model)
    module = architecture.build(**notes.arguments)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in load_file(folder / WEIGHTS).items()})
    return module.eval(), architecture.OUTPUTS


def layers(folder: Path, notes: Notes, threads: int, inputs: Arrays) -> list[LayerRun]:
    """All modules without child modules, in the order of their calls, with the time of each call on the CPU."""
    import torch

    torch.set_num_threads(threads)
    session = TorchSession(*_module(folder, notes))
    calls: list[tuple[str, str, int, int, float]] = []
    started: list[float] = []

    def after(name: str, module: torch.nn.Module, result: torch.Tensor) -> None:
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
    def __init__(self, module: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        self.module, self.outputs = module, outputs

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; a batch runs as one batch."""
        import torch

        (array,) = inputs.values()
        with torch.inference_mode():
            result = self.module(torch.from_numpy(np.ascontiguousarray(array)))
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, _tensors(result), strict=True)}


class CudaSession:
    """Runs a module on a CUDA device by replaying a CUDA graph, which is captured at the first input of a shape.

    Calls of several threads run one after the other, because a graph has one set of buffers.
    """

    def __init__(self, module: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        self.module, self.outputs, self.lock = module, outputs, threading.Lock()
        self.graphs: dict[tuple[int, ...], Capture] = {}

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name; a batch runs as one batch."""
        import torch

        (array,) = inputs.values()
        with self.lock, torch.inference_mode():
            if array.shape not in self.graphs:
                self.graphs[array.shape] = self._capture(array.shape)
            graph, image, results = self.graphs[array.shape]
            image.copy_(torch.from_numpy(np.ascontiguousarray(array)))
            graph.replay()
            return {name: result.float().cpu().numpy() for name, result in zip(self.outputs, results, strict=True)}

    def _capture(self, shape: tuple[int, ...]) -> Capture:
        """The CUDA graph of one run, its input and its outputs on the device."""
        import torch

        dtype = next(self.module.parameters()).dtype
        image = torch.zeros(shape, dtype=dtype, device="cuda").to(memory_format=torch.channels_last)
        graph, results = capture(self.module, image)
        return graph, image, results


def capture(module: torch.nn.Module, image: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, Tensors]:
    """A CUDA graph of the module's run on `image`, a tensor on the device, and the tensors of its outputs.

    Three runs before the capture choose kernels and allocate memory.
    """
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(image)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = _tensors(module(image))
    return graph, results


def _tensors(result: torch.Tensor | Sequence[torch.Tensor]) -> Tensors:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


if TYPE_CHECKING:
    from sandglass.backends import pytorch as this_module

    _: Backend[Notes] = this_module
