"""Architecture and weights to a graph that is proved equal to the module before it is kept."""

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
TOLERANCE = 1e-4  # of the largest output


@dataclass(frozen=True)
class ExportReport:
    """How the graph compares with its module: largest difference relative to the largest output, and the opset."""

    difference: float
    opset: int


def read_weights(card: Card, checkpoint: Path, out: Path, ema: bool = False) -> dict[str, np.ndarray]:
    """Read a checkpoint, check its keys against the card's architecture, and write them to `out` as safetensors.

    `ema` takes the averaged weights in it. Raises CheckpointError when the file cannot be read, has none, or belongs to
    another model.
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
    """The card's architecture, untrained.

    Raises BackendUnavailable where PyTorch is not installed, and CardError for arguments that it does not take.
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
        raise CardError(f"{card.name}: {card.model} cannot be built with its arguments: {error}", HELP) from error
    return module


def export_graph(card: Card, state: Mapping[str, np.ndarray], out: Path) -> ExportReport:
    """Export the card's architecture with the weights `state` to the graph `out`.

    The graph has one input, `input` (1, 3, H, W), the architecture's named outputs, opset 17, and no BatchNorm. Raises
    ParityError when it differs from the module by more than 1e-4 of the largest output on three inputs.
    """
    import torch

    module = _trained(card, state)
    outputs = list(load_model(card.model or "").OUTPUTS)
    example = torch.zeros(1, 3, *card.input.size)
    with TemporaryDirectory(prefix="sandglass-") as folder, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracing and deprecation notices are for developers of PyTorch
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            module, (example,), str(raw), input_names=[INPUT], output_names=outputs, opset_version=OPSET, dynamo=False
        )
        save_graph(simplify(load_graph(raw)), out)
    difference = compare(module, out, (1, 3, *card.input.size), outputs)
    if not difference <= TOLERANCE:
        out.unlink()
        raise ParityError(f"the exported graph differs from the module by {difference:.1e} of its largest value",
                          f"allowed is {TOLERANCE:g}")  # fmt: skip
    return ExportReport(difference, OPSET)


def check_size(card: Card, state: Mapping[str, np.ndarray], graph: Path, size: tuple[int, int]) -> None:
    """Compare a graph that was exported at another size with the module at `size`; raises as `export_graph` does."""
    outputs = list(load_model(card.model or "").OUTPUTS)
    difference = compare(_trained(card, state), graph, (1, 3, *size), outputs)
    if not difference <= TOLERANCE:
        raise ParityError(
            f"it differs from the module by {difference:.1e} of its largest value", f"allowed is {TOLERANCE:g}"
        )


def _trained(card: Card, state: Mapping[str, np.ndarray]) -> torch.nn.Module:
    import torch

    module = build_module(card)
    module.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    return module.eval()


def compare(module: torch.nn.Module, graph: Path, shape: tuple[int, ...], outputs: list[str]) -> float:
    """Largest difference between module and graph over three random inputs, relative to the largest output."""
    import torch

    session, random, worst = GraphSession(graph), np.random.default_rng(0), 0.0
    for scale in (0.5, 1.0, 2.0):
        image = (scale * random.standard_normal(shape)).astype(np.float32)
        with torch.inference_mode():
            result = module(torch.from_numpy(image))
        tensors = result if isinstance(result, tuple | list) else (result,)
        found = session.run({INPUT: image})
        for name, tensor in zip(outputs, tensors, strict=True):
            worst = max(worst, relative_difference(tensor.numpy(), found[name]))
    return worst
