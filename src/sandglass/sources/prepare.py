"""From what a user names to the checked fp32 graph: a zoo model, a card, an artifact, and their weights."""

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
    """The checked graph of a card, in a temporary folder that lives as long as the context.

    It is in fp32, unless the card's file is quantized already and `quantized` says to keep it so.

    `ema` takes the averaged weights of the checkpoint. The graph is static: for the first of `shapes` where there are
    any, and raises GraphError unless it holds for all of them.
    """
    size = shapes[0] if shapes else card.input.size
    with TemporaryDirectory(prefix="sandglass-") as folder:
        graph = Path(folder) / "graph.onnx"
        if card.graph is not None:
            if ema:
                raise CheckpointError(f"{card.name} is a graph and has no averaged weights", "leave out --ema")
            from sandglass.sources import bring_up

            say(f"graph: bringing up {card.graph.name}")
            kept = bring_up.bring_up_file(card.graph, graph, size, quantized)
            if kept:
                say(f"graph: {card.graph.name} is quantized already: its operators stay as they are")
            hold_for(graph, shapes, partial(bring_up.check_size, card.graph))
            yield Source(card, graph, shapes=tuple(shapes), quantized=kept)
            return
        from sandglass.sources.export import check_size, export_graph, read_weights

        file = find_checkpoint(card, checkpoint)
        say(f"graph: exporting {file.name}")
        weights = Path(folder) / "weights.safetensors"
        state = read_weights(card, file, weights, ema)
        report = export_graph(replace(card, input=replace(card.input, size=size)), state, graph)
        say(f"graph: equal to the module to {report.difference:.1e}")
        hold_for(graph, shapes, partial(check_size, card, state))
        yield Source(card, graph, weights, shapes=tuple(shapes))


def find_checkpoint(card: Card, given: Path | None) -> Path:
    """The checkpoint file: the one given, one shipped beside the card, or one fetched before."""
    if given is not None:
        if not given.is_file():
            raise CheckpointError(f"there is no checkpoint {given}", "check the path")
        return given
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
        f"{card.name} needs its checkpoint {name}", f"give --checkpoint FILE, or try `sandglass fetch {card.name}`"
    )


def is_quantized(card: Card) -> bool:
    """Whether the card names an ONNX file that is quantized already. Raises GraphError for one that cannot be read."""
    from sandglass.graph.io import load_graph
    from sandglass.sources.quantized import is_quantized

    return card.graph is not None and card.graph.suffix == ".onnx" and is_quantized(load_graph(card.graph))


def _verified(cached: Path, card: Card) -> Path:
    """A file of the cache, where it is the one that the card means: another card may have fetched one of that name."""
    from sandglass.sources.fetch import is_right

    assert card.checkpoint is not None
    if not is_right(cached, card.checkpoint):
        raise CheckpointError(
            f"the SHA-256 of {cached} does not start with {card.checkpoint.sha256}, as the card of {card.name} says",
            f"give --checkpoint FILE, or try `sandglass fetch {card.name}`",
        )
    return cached
