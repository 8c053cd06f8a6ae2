"""`sandglass.json`, the manifest of an artifact: its model and target, and the hash of every file in its folder.

The manifest also holds a hash of itself, the seal. The seal is not a signature, since anybody can compute it. It
detects a manifest that was edited by hand (for example its `mean`) before the edit leads to a wrong result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path, PurePosixPath
from typing import Annotated

from msgspec import Meta, field

from sandglass.artifacts.tuned_settings import TUNING
from sandglass.backends import load_backend
from sandglass.core import discover
from sandglass.core.errors import ArtifactError, shown
from sandglass.core.files import PART, sha256, write_json
from sandglass.core.json_values import JsonObject
from sandglass.core.locks import LOCK
from sandglass.core.records import Record, read_format, to_record
from sandglass.sources.card import Card, Side

MANIFEST = "sandglass.json"
FORMAT = 1
SEAL = "manifest_sha256"
AGAIN = "deploy the model again with this version"
MOST_ELEMENTS = 2**28  # elements of one input: 1 GiB in float32, more than a runtime here can process

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="a SHA-256 in hex digits")]
Shapes = Annotated[dict[str, Annotated[tuple[Side, ...], Meta(min_length=1)]], Meta(min_length=1)]
Notes = JsonObject  # the backend's record of its build; the fields are those of the backend's `Notes` type


class OutputCheck(Record, frozen=True):
    """The comparison of one part of the outputs with that of the graph (see `graph.output_parts`).

    `snr_db` is the signal-to-noise ratio in dB over all inputs together: the power of the graph's values over the power
    of the difference. `worst_snr_db` is that of the worst input. `cosine` is the cosine of the angle between the values
    of the artifact and of the graph, -1 to 1.
    """

    snr_db: float
    worst_snr_db: float
    cosine: float


class Check(Record, frozen=True, omit_defaults=True):
    """The result of comparing an artifact with its graph.

    `relative_difference` is the largest absolute difference of an output over the largest absolute value of this
    output; `correlation` is the smallest correlation of an output. Both are None if nothing was compared; `summary`
    gives the reason. `inputs` names the inputs of the comparison. `quantized` is true if the source file was quantized
    before. `int8_share` is the share of the multiply-accumulates that run in int8, 0 to 1. `outputs` has the comparison
    of each part of the outputs, by the name of its tensor.
    """

    summary: str = ""
    inputs: str = ""
    relative_difference: float | None = None
    correlation: float | None = None
    quantized: bool = False
    int8_share: float | None = None
    outputs: dict[str, OutputCheck] = field(default_factory=dict)


class Manifest(Record, frozen=True, kw_only=True):
    """The content of `sandglass.json`.

    `inputs` has the graph's input shapes by name. `shapes` has (height, width, number of images) for each input shape
    of an artifact with several. `by_shape` has (height, width, notes of the backend) if each shape has its own files.
    `processor` names the processors on which the integer sums are exact. `files` has the SHA-256 of each file by name.
    """

    format: int
    card: Card
    backend: str
    precision: str
    inputs: Shapes
    graph_sha256: str
    checkpoint_sha256: str | None = None
    plan_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    processor: str | None = None
    build_key: str | None = None
    check: Check
    backend_notes: Notes
    by_shape: list[tuple[Side, Side, Notes]] = field(default_factory=list)
    shapes: list[tuple[Side, Side, int]] = field(default_factory=list)
    files: dict[str, Digest]
    manifest_sha256: str

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown backend or precision, and for shapes of too many elements."""
        check_target(self.backend, self.precision)
        check_elements(self.inputs)
        for size in (*self.shapes, *self.by_shape):
            check_elements({"": size[:2]})


def write_manifest(folder: Path, fields: Mapping[str, object]) -> None:
    """Hash the files in `folder` and write the manifest, which is the last file of an artifact to be written."""
    hashes = {name: sha256(path) for name, path in sorted(_entries(folder)) if path.is_file()}
    manifest = {"format": FORMAT, **fields, "files": hashes}
    manifest.pop(SEAL, None)
    write_json(folder / MANIFEST, {**manifest, SEAL: seal(manifest)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an artifact, and verify it and every file in the folder.

    Raises ArtifactError if the manifest is missing, has another format, was edited, or has an unknown field or a field
    of the wrong type; also if a listed file is missing or changed, a file is not listed, or a link leads out of the
    folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is not an artifact: it has no {MANIFEST}", "write an artifact with `sandglass deploy`"
        )
    fields = read_format(path, FORMAT, ArtifactError, AGAIN)
    if fields.get(SEAL) != seal({name: value for name, value in fields.items() if name != SEAL}):
        raise ArtifactError(f"{path} was edited after the artifact was written", AGAIN)
    manifest = to_record(fields, Manifest, str(path), ArtifactError, AGAIN, folder)
    _verify(folder, manifest)
    return manifest


def seal(manifest: Mapping[str, object]) -> str:
    """The value of the field SEAL: the SHA-256 over all other fields of the manifest, independent of their order."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative names and paths of the files that belong to an artifact: everything below `folder` except folders.

    The manifest itself, tuned settings, their temporary files and the lock are left out.
    """
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        temporary = name.startswith(f".{TUNING}.") and name.endswith(PART)
        if (name in (MANIFEST, TUNING, LOCK) or temporary) and path.is_file():
            continue
        if path.is_symlink() or not path.is_dir():
            yield name, path


def check_target(backend: str, precision: str) -> None:
    """Raise ValueError for an unknown backend, and for a precision that the backend cannot write."""
    if not discover.has("backends", backend):
        raise ValueError(f"backend is {shown(backend)}, expected one of {', '.join(discover.names('backends'))}")
    precisions = load_backend(backend).PRECISIONS
    if precision not in precisions:
        raise ValueError(f"precision is {shown(precision)}, expected one of {', '.join(precisions)}")


def check_elements(shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError for a shape with more than MOST_ELEMENTS elements."""
    for name, shape in shapes.items():
        if prod(shape) > MOST_ELEMENTS:
            place = f"the shape of {shown(name)}" if name else "a shape"
            raise ValueError(f"{place} is {shown(list(shape))}, expected at most {MOST_ELEMENTS} elements")


def _verify(folder: Path, manifest: Manifest) -> None:
    """Raise ArtifactError with the name of the file unless `folder` holds exactly the listed files and hashes."""
    inside, files = folder.resolve(), manifest.files
    if not files and load_backend(manifest.backend).CAPABILITIES.computes:
        raise ArtifactError(f"{folder / MANIFEST}: files is empty, expected the files of the runtime", AGAIN)
    for name in files:
        _check_name(folder, name)
    for name in (MANIFEST, TUNING, *files):
        if not (folder / name).resolve().is_relative_to(inside):
            raise ArtifactError(
                f"{folder / name} is a link to a file outside the artifact", "copy that file into the artifact"
            )
    for name, path in _entries(folder):
        if name not in files:
            raise ArtifactError(f"{path} is not listed in {MANIFEST}", "remove it, or deploy the model again")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            state = "was changed after the artifact was written" if path.is_file() else "is missing"
            raise ArtifactError(f"{path} {state}", AGAIN)


def _check_name(folder: Path, name: str) -> None:
    """Raise ArtifactError unless `name` is a path below the folder, in the form that `write_manifest` writes."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or not name.isprintable():
        place = folder / MANIFEST
        raise ArtifactError(f"{place}: files has {shown(name)}, expected a path inside the artifact", AGAIN)
