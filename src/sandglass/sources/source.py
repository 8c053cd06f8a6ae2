"""The source of artifacts: a card, a checked graph, and the options of the build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandglass.core.files import atomic_folder
from sandglass.core.processor import ANY, Processor
from sandglass.sources.card import Card


@dataclass(frozen=True)
class Source:
    """The inputs of a build: the card, the fp32 graph, and the weights of a zoo model.

    The graph is in a temporary folder, to which builds may add files. `soc` names the processor to compile for, if the
    backend's compiler needs it. A backend with the capability `tunes_kernels` may search for fast kernels for
    `tune_seconds`. `wide` are tensors whose values are too large for float16: the nodes that write or read them stay in
    float32. `shapes` are the input sizes (height, width), the graph's own first; empty for a single size. `processor`
    is the kind of processor on which int8 sums must be exact. `quantized` says that the source file is quantized and
    the graph keeps its integers: there is no plan, and artifacts of any precision compute what the file defines.
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
        """The folder `name` next to the graph. `make` fills it at the first call."""
        folder = self.graph.parent / name
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                make(temporary)
        return folder
