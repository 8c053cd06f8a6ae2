"""The build key: one hash over everything that an artifact is built from.

An artifact whose manifest holds the current build key is up to date and is not built again.
"""

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
    """The SHA-256, in hex digits, of all inputs of the artifact or build kit whose folder is named `folder`.

    The inputs are the target, the version of its backend, the card, the graph, the plan (int8 only), the options of the
    build, the inputs of the comparison with the graph, and the evaluation samples of a build kit.
    """
    options = {field.name: getattr(source, field.name) for field in fields(source)}
    inputs = {
        **{name: sorted(value) if isinstance(value, frozenset) else value for name, value in options.items()},
        "target": folder,
        "versions": [own_version(), version],
        "card": source.card.to_dict(),
        "processor": source.processor.name,
        "graph": sha256(source.graph),
        "weights": sha256(source.weights) if source.weights else None,
        "plan": plan.sha256 if plan else None,
        "reference": [[_digest(array) for array in feed.values()] for feed in reference.feeds],
        "least": [dict(reference.least), dict(reference.least_decibels)],
        "shapes": [[*size, images] for size, images in shapes.items()],
        "samples": [samples.dataset.fingerprint, samples.flip_test] if samples else None,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()


def made_before(folder: Path, key: str) -> Artifact | None:
    """The artifact in `folder` if it passes `load_artifact` and has the build key `key`; otherwise None."""
    try:
        artifact = load_artifact(folder)
    except ArtifactError:
        return None
    return artifact if artifact.manifest.build_key == key else None


def kit_made_before(folder: Path, key: str) -> bool:
    """Whether `folder` holds a build kit with the build key `key`."""
    try:
        return read_kit_manifest(folder).build_key == key
    except ArtifactError:
        return False


@contextmanager
def own_folder(out: Path, folders: Iterable[Path], card: Card, force: bool) -> Iterator[None]:
    """Lock `out` for this run, and remove the temporary files of killed runs.

    Raises BusyError if another run works in `out`. Unless `force` is set, raises ArtifactError if one of `folders`
    exists and is not an artifact or build kit of `card`.
    """
    with locked_folder(out):
        sweep(out)
        for folder in folders:
            _refuse_other_model(folder, card, force)
        yield


def _refuse_other_model(folder: Path, card: Card, force: bool) -> None:
    """Raise ArtifactError early for a folder of another model. The full build key is known only with the graph."""
    if not force and folder.exists() and _card_of(folder) != json.dumps(card.to_dict()):
        refuse_existing(folder, force)


def _card_of(folder: Path) -> str:
    """The card of the artifact or build kit in a folder, as JSON text; "" if the folder holds neither."""
    for read in (read_kit_manifest, read_manifest):
        try:
            return json.dumps(read(folder).card.to_dict())
        except ArtifactError:
            continue
    return ""


@dataclass(frozen=True)
class Samples:
    """Evaluation samples for a build kit, which contains their network inputs.

    With `flip_test` it also contains the mirrored inputs; None follows the card.
    """

    dataset: Dataset
    flip_test: bool | None = None
