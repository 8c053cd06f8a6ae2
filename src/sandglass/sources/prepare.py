"""Prepare the checked graph of a card, from its ONNX file or from its architecture and checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sandglass.core.errors import CheckpointError
from sandglass.core.progress import Say
from sandglass.core.resume import cache_folder
from sandglass.core.sizes import Size
from sandglass.sources.card import ZOO, Card
from sandglass.sources.shapes import hold_for
from sandglass.sources.source import Source

if TYPE_CHECKING:
    from sandglass.sources.bring_up import Quantized


@contextmanager
def prepared_source(
    card: Card,
    checkpoint: Path | None,
    say: Say = lambda line: None,
    shapes: Sequence[Size] = (),
    *,
    quantized: Quantized = "refuse",
    ema: bool = False,
) -> Iterator[Source]:
    """The checked graph of a card, in a temporary folder that is removed when the context ends.

    The graph is in fp32, unless the card's file is quantized and `quantized` is "keep". `ema` selects the averaged
    weights of the checkpoint. The graph has a static input: the first of `shapes`, or the card's size. Raises
    GraphError if it is not valid for all of `shapes`.
    """
    size = shapes[0] if shapes else card.input.size
    with TemporaryDirectory(prefix="sandglass-") as folder:
        graph = Path(folder) / "graph.onnx"
        if card.graph is not None:
            if ema:
                raise CheckpointError(f"{card.name} is an ONNX graph and has no averaged weights", "leave out --ema")
            from sandglass.sources import bring_up

            say(f"graph: converting {card.graph.name} and comparing the result with it")
            has_integers = bring_up.bring_up_file(card.graph, graph, size, quantized)
            if has_integers:
                say(f"graph: {card.graph.name} is quantized already; its operators do not change")
            hold_for(graph, shapes, partial(bring_up.check_size, card.graph))
            yield Source(card, graph, shapes=tuple(shapes), quantized=has_integers)
            return
        from sandglass.sources.export import check_size, export_graph, read_weights

        file = find_checkpoint(card, checkpoint)
        say(f"graph: exporting {card.name} with the weights of {file.name}")
        weights = Path(folder) / "weights.safetensors"
        state = read_weights(card, file, weights, ema)
        report = export_graph(replace(card, input=replace(card.input, size=size)), state, graph)
        say(f"graph: exported; relative difference to the PyTorch module {report.difference:.1e}")
        hold_for(graph, shapes, partial(check_size, card, state))
        yield Source(card, graph, weights, shapes=tuple(shapes))


def find_checkpoint(card: Card, path: Path | None) -> Path:
    """The checkpoint file: the user's `path`, a file shipped with the card, or a file that was fetched before.

    Raises CheckpointError if there is none, and for a fetched file with another SHA-256 than that of the card.
    """
    if path is not None:
        if not path.is_file():
            raise CheckpointError(f"the checkpoint {path} does not exist", "check the path")
        return path
    assert card.checkpoint is not None or card.model is not None
    name = card.checkpoint.file if card.checkpoint else ""
    if name and (ZOO / name).is_file():
        return ZOO / name
    cached = cache_folder() / "checkpoints" / name
    if name and cached.is_file():
        return _verified(cached, card)
    if not name:
        raise CheckpointError(f"{card.name} needs a checkpoint", "give --checkpoint FILE")
    raise CheckpointError(
        f"the checkpoint {name} of {card.name} is missing",
        f"give --checkpoint FILE, or download it with `sandglass fetch {card.name}`",
    )


def is_quantized(card: Card) -> bool:
    """Whether the card's ONNX file is quantized already. Raises GraphError if the file cannot be read."""
    from sandglass.graph.io import load_graph
    from sandglass.sources.quantized import is_quantized

    return card.graph is not None and card.graph.suffix == ".onnx" and is_quantized(load_graph(card.graph))


def _verified(cached: Path, card: Card) -> Path:
    """The cached file, if it has the SHA-256 of the card; another card may have fetched a file of the same name."""
    from sandglass.sources.fetch import is_right

    assert card.checkpoint is not None
    if not is_right(cached, card.checkpoint):
        raise CheckpointError(
            f"the SHA-256 of {cached} does not start with {card.checkpoint.sha256}, as in the card of {card.name}",
            f"give --checkpoint FILE, or download it again with `sandglass fetch {card.name}`",
        )
    return cached
