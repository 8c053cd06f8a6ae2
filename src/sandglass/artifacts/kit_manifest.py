"""`kit.json`, the manifest of a build kit: what the kit is, and which input lies in which of its files."""

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

PlainName = Annotated[str, Meta(pattern=r"^\w[\w.-]{0,99}$")]  # of a file in the folder itself


class KitSamples(Record, frozen=True):
    """The samples that a kit takes along: the fingerprint of their dataset, and how they are evaluated."""

    fingerprint: str
    flip_test: bool
    protocol: dict[str, JsonValue]


class KitManifest(Record, frozen=True, kw_only=True):
    """What a build kit is.

    `inputs` and `outputs` are the graph's shapes by name, `model` is the file that `build.sh` makes, and `rows` has
    the digests of the inputs in each file of `inputs/`.
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
        """What an artifact of the same origin would say of itself: it has no files here, and was not compared."""
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
    """Read the manifest of a build kit; raises ArtifactError where there is none, or a field does not fit."""
    return read_json_record(folder / KIT, KitManifest, ArtifactError, AGAIN, FORMAT)
