"""Export an architecture with its weights to a graph, and compare the graph with the PyTorch module."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from sandglass.core.compare import relative_difference
from sandglass.core.distribution import install_command
from sandglass.core.errors import BackendUnavailable, CardError, ParityError
from sandglass.core.files import atomic_file
from sandglass.graph.io import load_graph, save_graph
from sandglass.graph.session import GraphSession
from sandglass.models import load_model
from sandglass.sources.bring_up import OPSET, simplify
from sandglass.sources.card import HELP, Card
from sandglass.sources.checkpoint import match_state, read_checkpoint

if TYPE_CHECKING:
    import torch

INPUT = "input"
TOLERANCE = 1e-4  # relative difference


@dataclass(frozen=True)
class ExportReport:
    """The relative difference between the graph and its module, and the opset of the graph."""

    difference: float
    opset: int


def read_weights(card: Card, checkpoint: Path, out: Path, ema: bool = False) -> dict[str, np.ndarray]:
    """Read a checkpoint, check its keys against the card's architecture, and write it to `out` as safetensors.

    Returns the state dict. `ema` selects the averaged weights. Raises CheckpointError if the file cannot be read, has
    no averaged weights, or belongs to another model.
    """
    from safetensors.numpy import save_file

    state = read_checkpoint(checkpoint, ema)
    module = build_module(card)
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    match_state(state, expected, checkpoint)
    whole = {key: np.ascontiguousarray(state.get(key, np.zeros(shape, np.int64))) for key, shape in expected.items()}
    with atomic_file(out) as temporary:
        save_file(whole, temporary)
    return whole


def build_module(card: Card) -> torch.nn.Module:
    """The card's architecture with untrained weights.

    Raises BackendUnavailable if PyTorch is not installed, and CardError for wrong arguments.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable("reading a checkpoint needs PyTorch", install_command("torch")) from error
    assert card.model is not None
    build = load_model(card.model).build
    try:
        module: torch.nn.Module = build(**card.arguments)
    except (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise CardError(f"{card.name}: {card.model} does not accept the arguments: {error}", HELP) from error
    return module


def export_graph(card: Card, state: Mapping[str, np.ndarray], out: Path) -> ExportReport:
    """Export the card's architecture with the weights `state` to the graph `out`.

    The graph has one input, `input` (1, 3, H, W) float32, the architecture's named outputs, opset 17, and no BatchNorm.
    Raises ParityError if the relative difference to the module on three inputs is over 1e-4.
    """
    import torch

    module = _trained(card, state)
    outputs = list(load_model(card.model or "").OUTPUTS)
    example = torch.zeros(1, 3, *card.input.size)
    with TemporaryDirectory(prefix="sandglass-") as folder, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # warnings about tracing and deprecation do not concern the user
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            module, (example,), str(raw), input_names=[INPUT], output_names=outputs, opset_version=OPSET, dynamo=False
        )
        save_graph(simplify(load_graph(raw)), out)
    difference = compare(module, out, (1, 3, *card.input.size), outputs)
    if not difference <= TOLERANCE:
        out.unlink()
        raise ParityError(f"the exported graph has a relative difference of {difference:.1e} to the module, over the "
                          f"limit of {TOLERANCE:g}", "report the model")  # fmt: skip
    return ExportReport(difference, OPSET)


def check_size(card: Card, state: Mapping[str, np.ndarray], graph: Path, size: tuple[int, int]) -> None:
    """Compare a graph that was exported at another size with the module at `size`. Raises like `export_graph`."""
    outputs = list(load_model(card.model or "").OUTPUTS)
    difference = compare(_trained(card, state), graph, (1, 3, *size), outputs)
    if not difference <= TOLERANCE:
        raise ParityError(
            f"its relative difference to the module is {difference:.1e}, over the limit of {TOLERANCE:g}",
            "report the model",
        )


def _trained(card: Card, state: Mapping[str, np.ndarray]) -> torch.nn.Module:
    import torch

    module = build_module(card)
    module.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    return module.eval()


def compare(module: torch.nn.Module, graph: Path, shape: tuple[int, ...], outputs: list[str]) -> float:
    """The largest relative difference between module and graph on three random inputs of `shape`."""
    import torch

    session, random, worst = GraphSession(graph), np.random.default_rng(0), 0.0
    for scale in (0.5, 1.0, 2.0):
        image = (scale * random.standard_normal(shape)).astype(np.float32)
        with torch.inference_mode():
            result = module(torch.from_numpy(image))
        tensors = result if isinstance(result, tuple | list) else (result,)
        arrays = session.run({INPUT: image})
        for name, tensor in zip(outputs, tensors, strict=True):
            worst = max(worst, relative_difference(tensor.numpy(), arrays[name]))
    return worst
