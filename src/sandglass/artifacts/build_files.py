"""What a backend builds from a graph: files that serve every input shape, or files for each.

A build and its check run in a process of their own: a runtime that crashes there stops no other.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import ModuleType
from typing import Any

from sandglass.artifacts import parity
from sandglass.core import discover
from sandglass.core.errors import ParityError, SandglassError
from sandglass.core.process import isolated
from sandglass.core.sizes import extremes, text
from sandglass.quantization.plan import Plan
from sandglass.sources.source import Source

FLOAT = "fp32"


def built(
    backend: str, source: Source, precision: str, folder: Path, plan: Plan | None, reference: parity.Reference
) -> dict[str, Any]:
    """Build and check the artifact's files in `folder`. Returns what the manifest says of them, with the version.

    Where the runtime has rounded precisions, what its float build came to is kept for `check_float`. Raises
    ParityError where the artifact disagrees with the graph, and the BackendError of a runtime that cannot build it,
    crashes or hangs.
    """
    if precision != FLOAT:
        check_float(backend, source, reference)
        return _isolated(backend, source, precision, folder, plan, reference)
    try:
        parts = _isolated(backend, source, precision, folder, plan, reference)
    except SandglassError as error:
        reference.floats[backend, source.graph] = error
        raise
    reference.floats[backend, source.graph] = None
    return parts


def check_float(backend: str, source: Source, reference: parity.Reference) -> None:
    """Raise what is wrong with a runtime's float build of the graph, which is made once.

    A rounded artifact is allowed to differ from the graph, more than what the runtime computes wrongly may change.
    """
    if FLOAT not in discover.load("backends", backend).PRECISIONS:
        return
    if (backend, source.graph) not in reference.floats:
        ends = (source.shapes[0], *extremes(source.shapes)) if source.shapes else ()
        with TemporaryDirectory(dir=source.graph.parent) as folder, suppress(SandglassError):
            built(backend, replace(source, shapes=ends, tune_seconds=0.0), FLOAT, Path(folder), None, reference)
    error = reference.floats[backend, source.graph]
    if isinstance(error, ParityError):
        raise ParityError(f"{backend} computes this graph wrongly in float already: {error.message}", error.fix)
    if error is not None:
        raise error


def _isolated(backend: str, source: Source, precision: str, *rest: Any) -> dict[str, Any]:
    name = f"{backend}:{precision}"
    parts: dict[str, Any] = isolated(
        name, _built_here, backend, source, precision, *rest, more_seconds=source.tune_seconds
    )
    return parts


def _built_here(
    backend: str, source: Source, precision: str, folder: Path, plan: Plan | None, reference: parity.Reference
) -> dict[str, Any]:
    """`built`, in this process."""
    module = discover.load("backends", backend)
    version = module.available()
    changed, planned = _repaired(source, plan, module)
    build = build_each if source.shapes and not getattr(module, "DYNAMIC", False) else build_once
    return {"version": version, **build(module, changed, precision, folder, planned, reference)}


def _repaired(source: Source, plan: Plan | None, backend: ModuleType) -> tuple[Source, Plan | None]:
    """The source with the plan's repairs in its graph, in a folder of its own, and the plan for that graph."""
    if plan is None or not plan.edits:
        return source, plan
    from sandglass.graph.io import save_graph
    from sandglass.quantization.repaired_plan import repaired

    folder = Path(mkdtemp(dir=source.graph.parent))
    model, changed = repaired(source.graph, plan, backend.SPEC.on(source.processor))
    save_graph(model, folder / "graph.onnx")
    return replace(source, graph=folder / "graph.onnx"), changed


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
    from sandglass.graph.io import load_graph, save_graph
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
