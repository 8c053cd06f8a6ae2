"""What an artifact is made from, as one hash: where its manifest has the hash of now, it need not be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sandglass.artifacts import parity
from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.artifacts.input_shapes import Shapes
from sandglass.artifacts.kit_manifest import read_kit_manifest
from sandglass.artifacts.manifest import read_manifest
from sandglass.core.errors import ArtifactError
from sandglass.core.files import refuse_existing, sha256, sweep
from sandglass.core.host import own_version
from sandglass.core.locks import locked_folder
from sandglass.datasets import Dataset
from sandglass.quantization.plan import Plan
from sandglass.sources.card import Card
from sandglass.sources.source import Source


def build_key(
    folder: str,
    version: str,
    source: Source,
    plan: Plan | None,
    reference: parity.Reference,
    shapes: Shapes = MappingProxyType({}),
    samples: Samples | None = None,
) -> str:
    """The hash of what the artifact or build kit `folder` follows from: 64 hex digits.

    These are the target, the version of its backend, the card, the graph, the plan where it is int8, the options of the
    build, the inputs that the artifact is compared with the graph on, and the samples that a kit takes along.
    """
    options = {field.name: getattr(source, field.name) for field in fields(source)}
    made_from = {
        **{name: sorted(value) if isinstance(value, frozenset) else value for name, value in options.items()},
        "target": folder,
        "versions": [own_version(), version],
        "card": source.card.to_dict(),
        "processor": source.processor.name,
        "graph": sha256(source.graph),
        "weights": sha256(source.weights) if source.weights else None,
        "plan": plan.sha256 if plan else None,
        "reference": [[_digest(array) for array in feed.values()] for feed in reference.feeds],
        "least": dict(reference.least),
        "shapes": [[*size, images] for size, images in shapes.items()],
        "samples": [samples.dataset.fingerprint, samples.flip_test] if samples else None,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()


def made_before(folder: Path, wanted: str) -> Artifact | None:
    """The artifact in `folder` where it is whole and made from what has the build key `wanted`, else None."""
    try:
        artifact = load_artifact(folder)
    except ArtifactError:
        return None
    return artifact if artifact.manifest.build_key == wanted else None


def kit_made_before(folder: Path, wanted: str) -> bool:
    """Whether `folder` is a build kit that was made from what has the build key `wanted`."""
    try:
        return read_kit_manifest(folder).build_key == wanted
    except ArtifactError:
        return False


@contextmanager
def own_folder(out: Path, folders: Iterable[Path], card: Card, force: bool) -> Iterator[None]:
    """`out` for this run alone, without what killed runs left there, while the context lives.

    Raises BusyError where another run works in it, and ArtifactError where one of `folders`, which are to be made,
    exists and is not an artifact or build kit of `card`, unless `force`.
    """
    with locked_folder(out):
        sweep(out)
        for folder in folders:
            _refuse_other_model(folder, card, force)
        yield


def _refuse_other_model(folder: Path, card: Card, force: bool) -> None:
    """This much is known at once; whether everything else is the same too is known when the graph is ready."""
    if not force and folder.exists() and _card_of(folder) != json.dumps(card.to_dict()):
        refuse_existing(folder, force)


def _card_of(folder: Path) -> str:
    """The card of the artifact or build kit in a folder, as JSON text; "" where there is neither."""
    for read in (read_kit_manifest, read_manifest):
        try:
            return json.dumps(read(folder).card.to_dict())
        except ArtifactError:
            continue
    return ""


@dataclass(frozen=True)
class Samples:
    """Samples whose inputs a kit takes along, with `flip_test` their mirrored ones too (default: as the card says)."""

    dataset: Dataset
    flip_test: bool | None = None
