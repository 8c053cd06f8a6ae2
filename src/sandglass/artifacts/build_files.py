"""What a backend builds from a graph: files that serve every input shape, or files for each.

A build and its check run in a process of their own: a runtime that crashes there stops no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from sandglass.artifacts.manifest import Check
from sandglass.artifacts.parity import Reference
from sandglass.backends import Backend, BuildNotes, load_backend
from sandglass.core.errors import ParityError, SandglassError
from sandglass.core.process import run_isolated
from sandglass.core.sizes import Size, extremes, text
from sandglass.quantization.plan import Plan
from sandglass.sources.source import Source

FLOAT = "fp32"


@dataclass(frozen=True)
class Build:
    """An artifact's files: the backend's version and notes, and how the files agree with the graph.

    `by_shape` has notes by input shape where each shape has files of its own; `notes` are empty then.
    """

    version: str
    check: Check
    notes: BuildNotes
    by_shape: Mapping[Size, BuildNotes] = field(default_factory=dict)

    @property
    def first_notes(self) -> BuildNotes:
        """The notes of the first shape: decisions on layers are the same for all."""
        return next(iter(self.by_shape.values()), self.notes)


def build_files(
    backend: str, source: Source, precision: str, folder: Path, plan: Plan | None, reference: Reference
) -> Build:
    """Build the artifact's files in `folder`, and compare them with the graph.

    The outcome of a float build is remembered for `check_float`. Raises
    ParityError where the artifact disagrees with the graph, and the BackendError of a runtime that cannot build it,
    crashes or hangs.
    """
    if precision != FLOAT:
        check_float(backend, source, reference)
        return _build_isolated(backend, source, precision, folder, plan, reference)
    try:
        build = _build_isolated(backend, source, precision, folder, plan, reference)
    except SandglassError as error:
        reference.floats[backend, source.graph] = error
        raise
    reference.floats[backend, source.graph] = None
    return build


def check_float(backend: str, source: Source, reference: Reference) -> None:
    """Raise the error of a runtime's float build of the graph, which is made once.

    A rounded artifact may differ from the graph by more than an error of the runtime changes: only the float build
    shows that error.
    """
    if FLOAT not in load_backend(backend).PRECISIONS:
        return
    if (backend, source.graph) not in reference.floats:
        ends = (source.shapes[0], *extremes(source.shapes)) if source.shapes else ()
        with TemporaryDirectory(dir=source.graph.parent) as folder, suppress(SandglassError):
            build_files(backend, replace(source, shapes=ends, tune_seconds=0.0), FLOAT, Path(folder), None, reference)
    error = reference.floats[backend, source.graph]
    if isinstance(error, ParityError):
        raise ParityError(f"{backend} computes this graph wrongly in float already: {error.message}", error.fix)
    if error is not None:
        raise error


def _build_isolated(
    backend: str, source: Source, precision: str, folder: Path, plan: Plan | None, reference: Reference
) -> Build:
    """`_build_here`, in a process of its own."""
    return run_isolated(
        f"{backend}:{precision}",
        _build_here,
        backend,
        source,
        precision,
        folder,
        plan,
        reference,
        more_seconds=source.tune_seconds,
    )


def _build_here(
    name: str, source: Source, precision: str, folder: Path, plan: Plan | None, reference: Reference
) -> Build:
    backend = load_backend(name)
    version = backend.available()
    source, plan = _repaired(source, plan, backend)
    each = source.shapes and not backend.CAPABILITIES.dynamic_shapes
    build = _build_each if each else _build_once
    return build(backend, version, source, precision, folder, plan, reference)


def _repaired(source: Source, plan: Plan | None, backend: Backend[BuildNotes]) -> tuple[Source, Plan | None]:
    """The source with the plan's repairs in its graph, in a folder of its own, and the plan for that graph."""
    if plan is None or not plan.edits or backend.SPEC is None:
        return source, plan
    from sandglass.graph.io import save_graph
    from sandglass.quantization.repaired_plan import repaired

    folder = Path(mkdtemp(dir=source.graph.parent))
    model, changed = repaired(source.graph, plan, backend.SPEC.on(source.processor))
    save_graph(model, folder / "graph.onnx")
    return replace(source, graph=folder / "graph.onnx"), changed


def _build_once(
    backend: Backend[BuildNotes],
    version: str,
    source: Source,
    precision: str,
    folder: Path,
    plan: Plan | None,
    reference: Reference,
) -> Build:
    """Files in `folder` that serve every shape of the source."""
    notes = backend.build(source, precision, folder, plan)
    return Build(version, reference.check(backend, folder, notes, precision), notes)


def _build_each(
    backend: Backend[BuildNotes],
    version: str,
    source: Source,
    precision: str,
    folder: Path,
    plan: Plan | None,
    reference: Reference,
) -> Build:
    """Files for each shape of the source, in a folder that is named like the shape.

    Each is compared with the graph at its shape; the check is that of the shape that agrees least.
    """
    from sandglass.graph.io import load_graph, save_graph
    from sandglass.graph.shapes import at_size

    notes: dict[Size, BuildNotes] = {}
    checks = []
    for size in source.shapes:
        with TemporaryDirectory(dir=source.graph.parent) as scratch:
            graph = Path(scratch) / "graph.onnx"
            save_graph(at_size(load_graph(source.graph), size), graph)
            part = folder / text(size)
            part.mkdir()
            one = replace(source, graph=graph, shapes=(), tune_seconds=source.tune_seconds / len(source.shapes))
            notes[size] = backend.build(one, precision, part, plan)
        checks.append(reference.check(backend, part, notes[size], precision, size))
    worst = max(checks, key=lambda check: check.relative_difference or 0.0)
    return Build(version, worst, BuildNotes(), notes)
