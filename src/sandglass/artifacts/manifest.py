"""`sandglass.json`, the manifest of an artifact: what the artifact is, and the hash of every file in its folder.

The manifest holds a hash of itself too. It is not a signature, since anybody can compute it, but a manifest that was
edited by hand, such as one whose `mean` is another one, is refused before it leads to a wrong result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path, PurePosixPath
from reprlib import repr as abbreviated
from typing import Any

from sandglass.artifacts.tuned_settings import TUNING
from sandglass.core import discover
from sandglass.core.errors import ArtifactError
from sandglass.core.files import PART, read_json, sha256, write_json
from sandglass.core.locks import LOCK
from sandglass.core.toml_fields import Fields

MANIFEST = "sandglass.json"
KIT = "kit.json"  # the manifest of a build kit
FORMAT = 1
SEAL = "manifest_sha256"
BUILD_KEY = "build_key"  # hash of what an artifact or a build kit was made from
AGAIN = "deploy the model again"
SHA256_DIGITS = 64
MOST_ELEMENTS = 2**28  # of one input: 1 GiB of float32, more than any runtime here could compute on


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> None:
    """Hash the files in `folder` and write its manifest, the last file of an artifact to appear."""
    hashes = {name: sha256(path) for name, path in sorted(_entries(folder)) if path.is_file()}
    manifest = {"format": FORMAT, **fields, "files": hashes}
    manifest.pop(SEAL, None)
    write_json(folder / MANIFEST, {**manifest, SEAL: seal(manifest)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of an artifact, and verify it and every file in the folder.

    Raises ArtifactError when there is none, it is of another format, it was edited, one of its fields has the wrong
    type, or the folder holds anything but the files that it lists, with other content, or a link out of the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}", "make one with `sandglass deploy`")
    manifest = read_json(path, ArtifactError)
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        raise ArtifactError(f"{path} is not of format {FORMAT}", "deploy the model again with this version")
    _Reader(str(path), ArtifactError, AGAIN).check(manifest)
    if manifest[SEAL] != seal({key: value for key, value in manifest.items() if key != SEAL}):
        raise ArtifactError(f"{path} was changed since the artifact was made", AGAIN)
    _verify(folder, manifest["files"])
    return manifest


def seal(manifest: Mapping[str, Any]) -> str:
    """The hash of a manifest that its field SEAL has: of all other fields, in any order."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """What belongs to an artifact: relative names and paths of everything below `folder` but folders.

    Left out are the manifest, and what is kept beside it: tuned settings, their temporary files, and the lock.
    """
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        temporary = name.startswith(f".{TUNING}.") and name.endswith(PART)
        if (name in (MANIFEST, TUNING, LOCK) or temporary) and path.is_file():
            continue
        if path.is_symlink() or not path.is_dir():
            yield name, path


def _verify(folder: Path, files: Mapping[str, str]) -> None:
    """Raise ArtifactError, naming the file, unless `folder` holds exactly `files` with the given hashes."""
    inside = folder.resolve()
    for name in (MANIFEST, TUNING, *files):
        if not (folder / name).resolve().is_relative_to(inside):
            raise ArtifactError(f"{folder / name} is a link to a place outside of the artifact", "copy the file itself")
    for name, path in _entries(folder):
        if name not in files:
            raise ArtifactError(f"{path} is not a file of the artifact", "remove it, or deploy the model again")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            state = "was changed" if path.is_file() else "is missing"
            raise ArtifactError(f"{path} {state} since the artifact was made", AGAIN)


class _Reader(Fields):
    """Checks the types of a manifest's fields, and what their values may be."""

    def check(self, data: Mapping[str, Any]) -> None:
        for name in ("card", "check", "backend_notes"):
            self.get(data, name, dict)
        self.get(data, "versions", dict, {})
        self.get(data, "graph_sha256", str)
        for name in ("checkpoint_sha256", "plan_sha256", BUILD_KEY):
            self.get(data, name, (str, type(None)), None)
        self.get(data, SEAL, str)
        self.backend(self.get(data, "backend", str), self.get(data, "precision", str), self.get(data, "files", dict))
        for name, digest in data["files"].items():
            self.file(name, digest)
        self.inputs(self.get(data, "inputs", dict))
        for name, last, kind in (("shapes", "images", int), ("by_shape", "notes", dict)):
            for entry in self.get(data, name, list, []):
                self.shape(name, entry, last, kind)

    def backend(self, name: str, precision: str, files: Mapping[str, Any]) -> None:
        if name not in discover.names("backends"):
            raise self.fail(f"unknown backend {name!r}, known: {', '.join(discover.names('backends'))}")
        backend = discover.load("backends", name)
        if precision not in backend.PRECISIONS:
            raise self.fail(f"precision is {precision!r}, expected one of {', '.join(backend.PRECISIONS)}")
        if not files and backend.CAPABILITIES.computes:
            raise self.fail("files is empty, expected the files of the runtime")

    def file(self, name: str, digest: Any) -> None:
        """A name is a path below the folder, as `write_manifest` writes it."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or not name.isprintable():
            raise self.fail(f"files has the name {name!r}, expected a path inside the artifact")
        if not isinstance(digest, str) or len(digest) != SHA256_DIGITS:
            raise self.fail(f"{name} has the hash {digest!r}, expected {SHA256_DIGITS} hex digits")

    def inputs(self, shapes: Mapping[str, Any]) -> None:
        if not shapes:
            raise self.fail("inputs is empty, expected the shape of each input")
        for name, shape in shapes.items():
            if not isinstance(shape, list) or not shape or not _are_sides(shape):
                raise self.fail(
                    f"the input {name!r} has the shape {abbreviated(shape)}, expected positive whole numbers"
                )

    def shape(self, field: str, entry: Any, last: str, kind: type) -> None:
        whole = isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], kind)
        if not whole or not _are_sides(entry[:2]):
            raise self.fail(f"{field} has {abbreviated(entry)}, expected height, width and {last}")


def _are_sides(values: list[Any]) -> bool:
    """Whether these are positive whole numbers, with no more than MOST_ELEMENTS elements between them."""
    return all(type(value) is int and value > 0 for value in values) and prod(values) <= MOST_ELEMENTS
