"""Graphs that have to hold for inputs of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sandglass.core.errors import GraphError, ParityError
from sandglass.core.sizes import Size, extremes, text


def hold_for(graph: Path, shapes: Sequence[Size], check: Callable[[Path, Size], object]) -> None:
    """Make a static graph one that holds for all of `shapes`, the first of which is its own; without any do nothing.

    `check` compares the graph, its sides left open, with what it was made from at the most extreme of them. Raises
    GraphError where they differ.
    """
    if not shapes:
        return
    from sandglass.graph.io import load_graph, save_graph
    from sandglass.graph.shapes import at_size, free_sides

    save_graph(at_size(load_graph(graph), shapes[0]), graph)
    with TemporaryDirectory(dir=graph.parent) as folder:
        free = Path(folder) / "free.onnx"
        free_sides(model := load_graph(graph))
        save_graph(model, free)
        for size in extremes(shapes):
            try:
                check(free, size)
            except (GraphError, ParityError) as error:
                raise GraphError(
                    f"the graph does not hold for inputs of {text(size)}: {error.message}",
                    "export it with a free height and width, or leave the shapes out",
                ) from error
