"""Build a backend's files from a graph: files that serve every input shape, or separate files for each shape.

A build and its comparison with the graph run in a separate process. A runtime that crashes there stops nothing else.
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
    """The result of a build: the backend's version, its notes, and the comparison of the files with the graph.

    If each input shape has its own files, `by_shape` holds the notes for each (height, width), and `notes` is empty.
    """

    version: str
    check: Check
    notes: BuildNotes
    by_shape: Mapping[Size, BuildNotes] = field(default_factory=dict)

    @property
    def first_notes(self) -> BuildNotes:
        """The notes of the first shape. Decisions on layers are the same for all shapes."""
        return next(iter(self.by_shape.values()), self.notes)


def build_files(
    backend: str, source: Source, precision: str, folder: Path, plan: Plan | None, reference: Reference
) -> Build:
    """Build the artifact's files in `folder`, and compare them with the graph.

    `reference.floats` keeps the result of a float build for `check_float`. Raises ParityError if the outputs differ
    too much from those of the graph, and BackendError if the runtime cannot build the graph, crashes or hangs.
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
    """Build the graph in float, once for each runtime and graph, and raise the error of this build if there is one.

    The tolerance for fp16 and int8 is wide, so a wrong kernel of the runtime could pass unnoticed. The comparison of
    the float build has a narrow tolerance and shows it.
    """
    if FLOAT not in load_backend(backend).PRECISIONS:
        return
    if (backend, source.graph) not in reference.floats:
        ends = (source.shapes[0], *extremes(source.shapes)) if source.shapes else ()
        with TemporaryDirectory(dir=source.graph.parent) as folder, suppress(SandglassError):
            build_files(backend, replace(source, shapes=ends, tune_seconds=0.0), FLOAT, Path(folder), None, reference)
    error = reference.floats[backend, source.graph]
    if isinstance(error, ParityError):
        raise ParityError(f"{backend} computes this graph wrongly even in float: {error.message}", error.fix)
    if error is not None:
        raise error


def _build_isolated(
    backend: str, source: Source, precision: str, folder: Path, plan: Plan | None, reference: Reference
) -> Build:
    """Run `_build_here` in a separate process."""
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
    source = _repaired(source, plan, backend)
    each = source.shapes and not backend.CAPABILITIES.dynamic_shapes
    build = _build_each if each else _build_once
    return build(backend, version, source, precision, folder, plan, reference)


def _repaired(source: Source, plan: Plan | None, backend: Backend[BuildNotes]) -> Source:
    """A source whose graph contains the plan's edits, saved in a new temporary folder."""
    if plan is None or not plan.edits or backend.SPEC is None:
        return source
    from sandglass.graph.io import save_graph
    from sandglass.quantization.repaired_plan import repaired

    folder = Path(mkdtemp(dir=source.graph.parent))
    save_graph(repaired(source.graph, plan, backend.SPEC.on(source.processor)), folder / "graph.onnx")
    return replace(source, graph=folder / "graph.onnx")


def _build_once(
    backend: Backend[BuildNotes],
    version: str,
    source: Source,
    precision: str,
    folder: Path,
    plan: Plan | None,
    reference: Reference,
) -> Build:
    """Build files in `folder` that serve every input shape of the source."""
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
    """Build files for each input shape of the source, in a subfolder with the name of the shape, such as 256x192.

    The files of each shape are compared with the graph at this shape. The result holds the check with the largest
    difference.
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
