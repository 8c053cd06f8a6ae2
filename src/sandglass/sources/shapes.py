"""Check that a graph is valid for inputs of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sandglass.core.errors import GraphError, ParityError
from sandglass.core.sizes import Size, extremes, text


def hold_for(graph: Path, shapes: Sequence[Size], check: Callable[[Path, Size], object]) -> None:
    """Give the graph the first of `shapes`, in place, and check it for all of them; without shapes do nothing.

    `check(graph, size)` compares a version of the graph with dynamic height and width with its source, at the most
    extreme shapes. Raises GraphError if they differ.
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
                    f"the graph is wrong for inputs of {text(size)}: {error.message}",
                    "export it with dynamic height and width, or leave out --shapes and --shapes-from",
                ) from error
