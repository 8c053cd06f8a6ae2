"""What artifacts are made from: a card, a checked graph, and how it is to be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandglass.core.files import atomic_folder
from sandglass.core.processor import ANY, Processor
from sandglass.sources.card import Card


@dataclass(frozen=True)
class Source:
    """What every artifact is made from: the card, the fp32 graph, and the weights where the model is a zoo one.

    The graph lies in a folder that is Sandglass's own while artifacts are made. `soc` names the processor to compile
    for, where a backend's compiler needs that. A backend that has `TUNES = True` may measure ways to compile the graph
    for `tune_seconds`. `wide` are tensors that half precision cannot hold: what makes and reads them stays in float32.
    `shapes` are the input sizes (height, width) that a backend with DYNAMIC is to serve, the graph's own first; empty
    where that is the only one. `processor` is the kind of processor that int8 arithmetic has to be exact on.
    `quantized` says that the graph holds integers as its file did: then no plan is made, and artifacts of any precision
    compute what the file says.
    """

    card: Card
    graph: Path
    weights: Path | None = None
    tune_seconds: float = 0.0
    soc: str = ""
    wide: frozenset[str] = frozenset()
    shapes: tuple[tuple[int, int], ...] = ()
    processor: Processor = ANY
    quantized: bool = False

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder `name` beside the graph, filled by `make` the first time that an artifact needs it."""
        folder = self.graph.parent / name
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                make(temporary)
        return folder
