"""Find the model card for a source that a user names: a zoo model, a card file or an artifact."""

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
    """The card for the name of a zoo model, the path of a `.toml` file, or the folder of an artifact.

    For an artifact, the returned card also names the graph file. This is the ONNX file, in the artifact's folder or in
    a folder next to it, whose hash is in the manifest: the fp32 artifact of a runtime that loads ONNX holds it. Raises
    CardError for an unknown name or an invalid card, and ArtifactError for a damaged artifact or a missing graph.
    """
    folder = Path(source)
    if not (folder / MANIFEST).is_file():
        return load_card(source)
    artifact = load_artifact(folder)
    for file in sorted(folder.resolve().parent.glob("*/*.onnx")):
        if sha256(file) == artifact.manifest.graph_sha256:
            return replace(artifact.card, graph=file, model=None, arguments={}, checkpoint=None)
    raise ArtifactError(
        f"the ONNX graph of {folder} is neither in this folder nor in a folder next to it",
        "give the model card instead, or deploy an fp32 artifact of a runtime that loads ONNX into the same --out",
    )
