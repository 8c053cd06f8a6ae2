"""What a backend builds from a graph: files that serve every input shape, or files for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from sandglass import parity
from sandglass.backends import Source
from sandglass.errors import GraphError, ParityError
from sandglass.quantize.plan import Plan
from sandglass.shapes import Size, extremes, text


def hold_for(graph: Path, shapes: Sequence[Size], check: Callable[[Path, Size], object]) -> None:
    """Make a static graph one that holds for all of `shapes`, the first of which is its own; without any do nothing.

    `check` compares the graph, its sides left open, with what it was made from at the most extreme of them. Raises
    GraphError where they differ.
    """
    if not shapes:
        return
    from sandglass.graph.load import load_graph, save_graph
    from sandglass.graph.shapes import at_size, free_sides

    save_graph(at_size(load_graph(graph), shapes[0]), graph)
    with TemporaryDirectory(dir=graph.parent) as folder:
        free = Path(folder) / "free.onnx"
        save_graph(free_sides(load_graph(graph)), free)
        for size in extremes(shapes):
            try:
                check(free, size)
            except (GraphError, ParityError) as error:
                raise GraphError(
                    f"the graph does not hold for inputs of {text(size)}: {error.message}",
                    "export it with a free height and width, or leave the shapes out",
                ) from error


def build_once(
    backend: ModuleType, source: Source, precision: str, folder: Path, plan: Plan | None, reference: parity.Reference
) -> dict[str, Any]:
    """Files in `folder` that serve every shape of the source. Returns what the manifest says of them."""
    notes = backend.build(source, precision, folder, plan)
    return {"check": reference.check(backend, folder, notes, precision), "backend_notes": notes}


def build_each(
    backend: ModuleType, source: Source, precision: str, folder: Path, plan: Plan | None, reference: parity.Reference
) -> dict[str, Any]:
    """Files for each shape of the source, in a folder called like it. Returns what the manifest says of them.

    Each is compared with the graph at its shape; the check is that of the one that agrees least.
    """
    from sandglass.graph.load import load_graph, save_graph
    from sandglass.graph.shapes import at_size

    parts, checks = [], []
    for size in source.shapes:
        with TemporaryDirectory(dir=source.graph.parent) as scratch:
            graph = Path(scratch) / "graph.onnx"
            save_graph(at_size(load_graph(source.graph), size), graph)
            part = folder / text(size)
            part.mkdir()
            one = replace(source, graph=graph, shapes=(), tune_seconds=source.tune_seconds / len(source.shapes))
            notes = backend.build(one, precision, part, plan)
        checks.append(reference.check(backend, part, notes, precision, size))
        parts.append([*size, notes])
    worst = max(checks, key=lambda check: float(check.get("relative_difference", 0)))
    return {"check": worst, "backend_notes": {}, "by_shape": parts}
