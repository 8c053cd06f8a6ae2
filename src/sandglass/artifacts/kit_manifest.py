"""`kit.json`, the manifest of a build kit: its model and target, and the inputs in each of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, field

from sandglass.artifacts.manifest import Check, Manifest, Shapes, check_elements, check_target
from sandglass.core.errors import ArtifactError
from sandglass.core.json_values import JsonValue
from sandglass.core.records import Record, read_json_record
from sandglass.sources.card import Card

KIT = "kit.json"
FORMAT = 1
AGAIN = "make the kit again with this version"

PlainName = Annotated[str, Meta(pattern=r"^\w[\w.-]{0,99}$")]  # the name of a file directly in the folder


class KitSamples(Record, frozen=True):
    """The evaluation samples of a kit: the fingerprint of their dataset, the flip test, and the protocol."""

    fingerprint: str
    flip_test: bool
    protocol: dict[str, JsonValue]


class KitManifest(Record, frozen=True, kw_only=True):
    """The content of `kit.json`.

    `inputs` and `outputs` are the graph's shapes by name. `model` is the file that `build.sh` writes. `rows` has the
    digests of the inputs in each file of `inputs/`.
    """

    format: int = FORMAT
    card: Card
    backend: str
    precision: str
    inputs: Shapes
    outputs: Shapes
    model: str
    soc: str = ""
    graph_sha256: str
    checkpoint_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    build_key: str | None = None
    samples: KitSamples | None = None
    rows: dict[PlainName, list[str]]

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown backend or precision, and for shapes of too many elements."""
        check_target(self.backend, self.precision)
        check_elements({**self.inputs, **self.outputs})

    def manifest(self) -> Manifest:
        """The manifest of an artifact of the same origin, without files and without a comparison with the graph."""
        return Manifest(
            format=self.format,
            card=self.card,
            backend=self.backend,
            precision=self.precision,
            inputs=self.inputs,
            graph_sha256=self.graph_sha256,
            checkpoint_sha256=self.checkpoint_sha256,
            versions=self.versions,
            build_key=self.build_key,
            check=Check(),
            backend_notes={},
            files={},
            manifest_sha256="",
        )


def read_kit_manifest(folder: Path) -> KitManifest:
    """Read the manifest of a build kit. Raises ArtifactError if it is missing or if a field is invalid."""
    return read_json_record(folder / KIT, KitManifest, ArtifactError, AGAIN, FORMAT)
