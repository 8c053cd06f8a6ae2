"""An artifact: a folder with the files that one runtime loads, and its manifest `sandglass.json` with their hashes."""

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

# Share of the multiply-accumulates, 0 to 1. An int8 artifact with a smaller share in int8 is almost a float artifact,
# so tables and messages mark it.
LEAST_INT8_SHARE = 0.1


@dataclass(frozen=True)
class Artifact:
    """A published artifact: its folder, the parsed manifest, and the model card that the manifest holds."""

    folder: Path
    manifest: Manifest
    card: Card

    @property
    def backend(self) -> str:
        """The name of the backend that built the artifact and runs it."""
        return self.manifest.backend

    @property
    def precision(self) -> str:
        """The precision, for example "fp32" or "int8"."""
        return self.manifest.precision

    @property
    def precision_note(self) -> str:
        """A remark on the precision: "quantized already", or the share of int8 if it is very small; otherwise ""."""
        check = self.manifest.check
        if check.quantized:
            return "quantized already"
        share = check.int8_share
        return f"only {share:.1%} of the work" if share is not None and share < LEAST_INT8_SHARE else ""

    @property
    def input_name(self) -> str:
        """The name of the graph's image input."""
        return next(iter(self.manifest.inputs))

    @property
    def size(self) -> int:
        """The size of the runtime's files in bytes, without the manifest."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)

    @property
    def shapes(self) -> dict[Size, int]:
        """For each input shape (height, width), the number of images that it was chosen for; empty for a single shape.

        The number is 0 for a shape that the user named (see `artifacts.input_shapes`).
        """
        return {(height, width): images for height, width, images in self.manifest.shapes}

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the manifest file in hex digits. The manifest holds the hashes of all other files."""
        return sha256(self.folder / MANIFEST)

    def check_processor(self) -> None:
        """Raise BackendError if integer sums of this artifact would saturate on this machine's processor."""
        name = self.manifest.processor or ANY.name
        if not find_processor(name).runs_here():
            raise BackendError(
                f"{self.folder} was made for {name}: on this processor, sums of its 8-bit weights saturate",
                f"deploy the model again with --for-processor {ANY.name}",
            )

    def open(self, threads: int | None = None, settings: Settings | None = None, callers: int = 1) -> Session:
        """Load the artifact on its runtime.

        Up to `callers` threads may call `run` of the session at the same time; each call uses `threads` cores. For
        None, `threads` and `settings` are those that `sandglass tune` stored for this kind of processor, or the
        defaults of the runtime. Raises BackendUnavailable if the runtime is not installed, and BackendError if the
        artifact was made for another processor.
        """
        backend = load_backend(self.backend)
        backend.available()
        self.check_processor()
        if settings is None:
            settings = self._tuned_settings()

        def opened(folder: Path, notes: BuildNotes, size: Size | None = None) -> Session:
            session = backend.open(folder, notes, threads or self.threads, settings, callers)
            # The thread that opens the session makes the first call: in this call, bindings initialize data that all
            # threads share, and two threads that do this at the same time may deadlock.
            session.run(self.noise(size=size))
            return session

        if not self._parts:
            return opened(self.folder, self._notes)
        return ShapeSession({size: partial(opened, *part, size) for size, part in self._parts.items()})

    def isolated(
        self, threads: int | None = None, settings: Settings | None = None, callers: int = 1
    ) -> AbstractContextManager[Session]:
        """Open the artifact in a separate process, which ends with the context.

        A crash of the runtime raises CrashError and does not end this process. For the arguments see `open`.
        """
        return remote_session(self.folder, threads, settings, callers)

    def files(self) -> tuple[Path, BuildNotes]:
        """The folder and the notes of the files that the backend built for the first input shape."""
        return next(iter(self._parts.values()), (self.folder, self._notes))

    @property
    def _notes(self) -> BuildNotes:
        return self._read_notes(self.manifest.backend_notes)

    @property
    def _parts(self) -> dict[Size, tuple[Path, BuildNotes]]:
        """The folder and the notes for each input shape; empty if the same files serve all shapes."""
        return {
            (height, width): (self.folder / text((height, width)), self._read_notes(notes))
            for height, width, notes in self.manifest.by_shape
        }

    def _read_notes(self, notes: Mapping[str, object]) -> BuildNotes:
        return read_notes(load_backend(self.backend).Notes, notes, f"{self.folder / MANIFEST}: backend_notes")

    def _tuned_settings(self) -> Settings:
        """The settings that `sandglass tune` stored for this kind of processor, or the defaults."""
        tuned = self.tuned()
        if tuned is None:
            return DEFAULTS
        check_settings(self.folder, self.backend, load_backend(self.backend).SETTINGS, tuned.settings)
        return tuned.settings

    def version(self) -> str:
        """The installed version of the artifact's runtime. Raises BackendUnavailable if it is not installed."""
        return load_backend(self.backend).available()

    @property
    def threads(self) -> int:
        """The default number of threads: the one tuned for this kind of processor, or all threads of the machine."""
        tuned = self.tuned()
        return tuned.threads if tuned else host.threads()

    def tuned(self) -> Tuned | None:
        """The record that `sandglass tune` stored for this kind of processor, or None.

        Raises ArtifactError if its file is damaged or belongs to another artifact.
        """
        return read_tuned(self.folder, self.sha256).get(processor_kind())

    def noise(self, batch: int = 1, size: Size | None = None) -> dict[str, np.ndarray]:
        """Random inputs by name, (batch, channels, height, width) float32, from a fixed seed.

        They serve for timing and comparing without a dataset. `size` is one of the input shapes, by default the first.
        """
        generator = np.random.default_rng(0)
        return {
            name: generator.standard_normal((batch, *shape[1:2], *(size or shape[2:]))).astype(np.float32)
            for name, shape in self.manifest.inputs.items()
        }


def load_artifact(folder: Path) -> Artifact:
    """Read an artifact and verify the hash of each of its files.

    Raises ArtifactError if the manifest is missing, of another format or edited, if a file is missing, changed or not
    listed in the manifest, or if `tuning.json` is damaged.
    """
    manifest = read_manifest(folder)
    artifact = Artifact(folder, manifest, manifest.card)
    artifact.tuned()  # refuses a damaged file now and not in the middle of a measurement
    return artifact


class RemoteSession:
    """A session that runs in another process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, batch first, float32. Raises CrashError if the runtime crashes or hangs."""
        return self._process.call(Session.run, dict(inputs))


@contextmanager
def remote_session(folder: Path, threads: int | None, settings: Settings | None, callers: int) -> Iterator[Session]:
    """Open the artifact in `folder` in a separate process, which ends with the context (see `Artifact.open`)."""
    plain = None if settings is None else dict(settings)  # a mapping proxy cannot be pickled
    with Process(str(folder), _opened, folder, threads, plain, callers, callers=callers) as process:
        yield RemoteSession(process)


def _opened(folder: Path, threads: int | None, settings: Settings | None, callers: int) -> Session:
    return load_artifact(folder).open(threads, settings, callers)
