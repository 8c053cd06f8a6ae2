"""Artifacts: a folder with what one runtime loads, plus `sandglass.json` that says what it is and proves it whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from sandglass.artifacts.input_shapes import ShapeSession
from sandglass.artifacts.manifest import MANIFEST, Manifest, read_manifest
from sandglass.artifacts.tuned_settings import Tuned, check_settings, processor_kind, read_tuned
from sandglass.backends import DEFAULTS, Arrays, BuildNotes, Session, Settings, load_backend, read_notes
from sandglass.core import host
from sandglass.core.errors import BackendError
from sandglass.core.files import sha256
from sandglass.core.process import Process
from sandglass.core.processor import ANY, find_processor
from sandglass.core.sizes import Size, text
from sandglass.sources.card import Card

# Of an int8 artifact's multiply-accumulates: with less in int8 it is a float artifact in all but name, and says so.
LEAST_INT8_SHARE = 0.1


@dataclass(frozen=True)
class Artifact:
    """A published artifact: `folder` and its parsed manifest."""

    folder: Path
    manifest: Manifest
    card: Card

    @property
    def backend(self) -> str:
        """Name of the backend that built it and runs it."""
        return self.manifest.backend

    @property
    def precision(self) -> str:
        """For example "fp32" or "int8"."""
        return self.manifest.precision

    @property
    def precision_note(self) -> str:
        """What the precision alone does not say: "quantized already", or how little is in int8; else ""."""
        check = self.manifest.check
        if check.quantized:
            return "quantized already"
        share = check.int8_share
        return f"only {share:.1%} of the work" if share is not None and share < LEAST_INT8_SHARE else ""

    @property
    def input_name(self) -> str:
        """The graph's name of its image input."""
        return next(iter(self.manifest.inputs))

    @property
    def size(self) -> int:
        """Bytes of the runtime's files, without the manifest."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)

    @property
    def shapes(self) -> dict[Size, int]:
        """Its input shapes (see `shapes`), by the number of images that each was chosen for; empty where it has one."""
        return {(height, width): images for height, width, images in self.manifest.shapes}

    @cached_property
    def sha256(self) -> str:
        """Hash of the manifest, which holds the hashes of all files."""
        return sha256(self.folder / MANIFEST)

    def check_processor(self) -> None:
        """Raise BackendError where integer sums of this artifact would saturate on the processor at hand."""
        name = self.manifest.processor or ANY.name
        if not find_processor(name).runs_here():
            raise BackendError(
                f"{self.folder} was made for {name}: on this processor sums of its 8-bit weights saturate",
                "deploy the model again, for any processor",
            )

    def open(self, threads: int | None = None, settings: Settings | None = None, callers: int = 1) -> Session:
        """Load it on its runtime; raises BackendUnavailable when that is not installed.

        `callers` threads may call its `run` at once, each call on `threads` cores. Threads and settings that are not
        given are those that `sandglass tune` stored for this kind of processor, else the defaults.
        """
        backend = load_backend(self.backend)
        backend.available()
        self.check_processor()
        if settings is None:
            settings = self._tuned_settings()

        def opened(folder: Path, notes: BuildNotes, size: Size | None = None) -> Session:
            session = backend.open(folder, notes, threads or self.threads, settings, callers)
            # Its first call belongs to the thread that opens it: bindings initialize then what is shared by all
            # threads, and two that do so at once may wait for each other forever.
            session.run(self.noise(size=size))
            return session

        if not self._parts:
            return opened(self.folder, self._notes)
        return ShapeSession({size: partial(opened, *part, size) for size, part in self._parts.items()})

    def isolated(
        self, threads: int | None = None, settings: Settings | None = None, callers: int = 1
    ) -> AbstractContextManager[Session]:
        """`open` in a process of its own, which lives as long as the context: a crash there is an error here."""
        return remote_session(self.folder, threads, settings, callers)

    def files(self) -> tuple[Path, BuildNotes]:
        """Folder and notes of the files that its backend built for the first of its shapes."""
        return next(iter(self._parts.values()), (self.folder, self._notes))

    @property
    def _notes(self) -> BuildNotes:
        return self._read_notes(self.manifest.backend_notes)

    @property
    def _parts(self) -> dict[Size, tuple[Path, BuildNotes]]:
        """Folder and notes by shape, where its backend built files for each."""
        return {
            (height, width): (self.folder / text((height, width)), self._read_notes(notes))
            for height, width, notes in self.manifest.by_shape
        }

    def _read_notes(self, notes: Mapping[str, object]) -> BuildNotes:
        return read_notes(load_backend(self.backend).Notes, notes, f"{self.folder / MANIFEST}: backend_notes")

    def _tuned_settings(self) -> Settings:
        """The settings that `sandglass tune` stored for this kind of processor, else the defaults."""
        tuned = self.tuned()
        if tuned is None:
            return DEFAULTS
        check_settings(self.folder, self.backend, load_backend(self.backend).SETTINGS, tuned.settings)
        return tuned.settings

    def version(self) -> str:
        """The version of its runtime here; raises BackendUnavailable when that is not installed."""
        return load_backend(self.backend).available()

    @property
    def threads(self) -> int:
        """Threads to run on where nobody says how many: as tuned on this kind of processor, else all."""
        tuned = self.tuned()
        return tuned.threads if tuned else host.threads()

    def tuned(self) -> Tuned | None:
        """What `sandglass tune` stored for this kind of processor; raises ArtifactError when its file is broken."""
        return read_tuned(self.folder, self.sha256).get(processor_kind())

    def noise(self, batch: int = 1, size: Size | None = None) -> dict[str, np.ndarray]:
        """Inputs of the right shapes, NCHW float32, seeded: for what is timed or compared without a dataset.

        `size` is one of its shapes, by default the first.
        """
        generator = np.random.default_rng(0)
        return {
            name: generator.standard_normal((batch, *shape[1:2], *(size or shape[2:]))).astype(np.float32)
            for name, shape in self.manifest.inputs.items()
        }


def load_artifact(folder: Path) -> Artifact:
    """Read and verify an artifact.

    Raises ArtifactError when the folder has no manifest, a manifest of another format or one that was edited, a file
    that is missing, was changed or is not listed, or broken settings next to it.
    """
    manifest = read_manifest(folder)
    artifact = Artifact(folder, manifest, manifest.card)
    artifact.tuned()  # a broken file is refused now, not in the middle of a measurement
    return artifact


class RemoteSession:
    """A session that runs in another process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name. Raises CrashError where the runtime crashes or hangs."""
        return self._process.call(Session.run, dict(inputs))


@contextmanager
def remote_session(folder: Path, threads: int | None, settings: Settings | None, callers: int) -> Iterator[Session]:
    """The artifact in `folder`, opened as `Artifact.open` does it in a process that lives as long as the context."""
    plain = None if settings is None else dict(settings)  # a mapping proxy cannot be pickled
    with Process(str(folder), _opened, folder, threads, plain, callers, callers=callers) as process:
        yield RemoteSession(process)


def _opened(folder: Path, threads: int | None, settings: Settings | None, callers: int) -> Session:
    return load_artifact(folder).open(threads, settings, callers)
