"""The card that a user names by a model, a file or an artifact."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from sandglass.artifacts.artifact import load_artifact
from sandglass.artifacts.manifest import MANIFEST
from sandglass.core.errors import ArtifactError
from sandglass.core.files import sha256
from sandglass.sources.card import Card
from sandglass.sources.load_card import load_card


def find_card(source: str | Path) -> Card:
    """The card of a zoo model's name or of a `.toml` file, or that of an artifact, which then gives its graph too.

    An artifact's graph is the file beside it, or in a folder next to it, that has the hash in its manifest: the float
    artifact of a runtime that loads ONNX. Raises CardError or ArtifactError.
    """
    folder = Path(source)
    if not (folder / MANIFEST).is_file():
        return load_card(source)
    artifact = load_artifact(folder)
    for file in sorted(folder.resolve().parent.glob("*/*.onnx")):
        if sha256(file) == artifact.manifest.graph_sha256:
            return replace(artifact.card, graph=file, model=None, arguments={}, checkpoint=None)
    raise ArtifactError(
        f"the graph that {folder} was made from is neither in it nor in a folder beside it",
        "give the model card, or deploy a float artifact for a runtime of ONNX files next to it",
    )
