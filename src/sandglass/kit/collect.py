"""Collecting a build kit that came back: its outputs and timings as those of any artifact.

A kit with results is an artifact whose session answers from what the host wrote down, so that the evaluation is the
one that every artifact gets.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sandglass.artifacts import parity
from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.manifest import KIT
from sandglass.backends import Arrays, Settings
from sandglass.core.errors import ArtifactError, CardError, DatasetError
from sandglass.core.files import read_json, sha256
from sandglass.core.reading import MALFORMED, open_file
from sandglass.formats.npz import read_npz
from sandglass.kit.make import EXPECTED, FORMAT, PROBES, row_digest
from sandglass.measure.benchmarking import Speed, speed
from sandglass.measure.evaluation import Evaluation, evaluate
from sandglass.sources.card import Card

RESULTS, TIMINGS = "results", "timings.json"
FIELDS = {"card": dict, "backend": str, "precision": str, "inputs": dict, "outputs": dict, "model": str,
          "graph_sha256": str, "rows": dict}  # fmt: skip
REPORTED = {"kit": str, "model_bytes": int, "runtime": str, "host": dict, "batch": int, "seconds": list}
PLAIN = re.compile(r"\w[\w.-]{0,99}")  # as make.py names files
FILES_IN_MEMORY = 8
AGAIN = "run `sh build.sh && python3 run.py` in the kit on that host, and bring results/ back whole"


@dataclass(frozen=True)
class Collected(Artifact):
    """A kit with its results; `reported` is what the host wrote of itself and its timings."""

    reported: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the compiled model, as the host reports."""
        return int(self.reported["model_bytes"])

    @cached_property
    def sha256(self) -> str:
        """Hash of what the host reports, which holds that of the kit."""
        return sha256(self.folder / RESULTS / TIMINGS)

    def version(self) -> str:
        """The version of the runtime on that host."""
        return str(self.reported["runtime"])

    def open(self, threads: int | None = None, settings: Settings | None = None, callers: int = 1) -> Replay:
        """A session that answers with the outputs that came back."""
        return Replay(self.folder / RESULTS, self.manifest)

    def isolated(
        self, threads: int | None = None, settings: Settings | None = None, callers: int = 1
    ) -> AbstractContextManager[Replay]:
        """The same: no runtime is at work that could crash."""
        return nullcontext(self.open())

    def speed(self) -> Speed:
        """The host's timed runs of one image; peak memory is not known."""
        return speed(self, list(self.reported["seconds"]), math.nan, 1, int(self.reported["batch"]))

    def speed_dict(self) -> dict[str, Any]:
        """The speed as JSON-able data with the conditions on that host."""
        told = {"runtime": self.version(), "host": self.reported["host"], "command": "run.py of the kit"}
        return {**self.speed().to_dict(), "peak_memory_mib": None, "threads": None, **told}


def load_kit(folder: Path) -> Collected:
    """Read a kit that came back. Raises ArtifactError naming what is missing or belongs to another kit."""
    manifest = read_json(folder / KIT, ArtifactError)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{folder / KIT} is not of format {FORMAT}", "make the kit again with this version")
    if wrong := [name for name, kind in FIELDS.items() if not isinstance(manifest.get(name), kind)]:
        raise ArtifactError(
            f"{folder / KIT} lacks {', '.join(wrong)}, or has another value there", "make the kit again"
        )
    if not all(map(_is_shape, [*manifest["inputs"].values(), *manifest["outputs"].values()])):
        raise ArtifactError(f"{folder / KIT} has a shape that is not a list of whole numbers", "make the kit again")
    rows = manifest["rows"]
    if PROBES not in rows or not all(_is_plain(name) and _is_texts(found) for name, found in rows.items()):
        raise ArtifactError(f"{folder / KIT} has rows that are not in files of the kit", "make the kit again")
    results = folder / RESULTS
    if not results.is_dir():
        raise ArtifactError(f"{folder} has no {RESULTS}: it was not run yet", AGAIN)
    lacking = [file for file in (*manifest["rows"], TIMINGS) if not (results / file).is_file()]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ArtifactError(f"{results} lacks {lacking[0]}{more} of {len(manifest['rows']) + 1} files", AGAIN)
    reported = read_json(results / TIMINGS, ArtifactError)
    if not isinstance(reported, dict) or not all(isinstance(reported.get(k), kind) for k, kind in REPORTED.items()):
        raise ArtifactError(f"{results / TIMINGS} is not what run.py writes", AGAIN)
    if reported["kit"] != sha256(folder / KIT):
        raise ArtifactError(f"{results} is of another kit", "bring back the results of this one")
    if not reported["seconds"] or not all(isinstance(s, float) and 0 < s < math.inf for s in reported["seconds"]):
        raise ArtifactError(f"{results / TIMINGS} has no timed runs", AGAIN)
    try:
        card = Card.from_dict(manifest["card"], str(folder / KIT), folder)
    except CardError as error:
        raise ArtifactError(error.message, "make the kit again with this version") from error
    return Collected(folder, manifest, card, reported)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(side) is int and side > 0 for side in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the folder itself."""
    return PLAIN.fullmatch(name) is not None


def agreement(kit: Collected) -> dict[str, Any]:
    """The compiled model beside the graph on the probes; raises ParityError where they disagree."""
    expected, found = _arrays(kit.folder / EXPECTED), kit.open().outputs(PROBES)
    check: dict[str, Any] = msgspec.to_builtins(parity.compare(_by_row(expected), _by_row(found), kit.precision))
    return check


def evaluation(kit: Collected, dataset: Any) -> Evaluation:
    """The kit's outputs scored on the samples that it was made for.

    Raises DatasetError where the kit took none along, or others than those of `dataset`.
    """
    taken = kit.manifest.get("samples")
    if taken is None:
        raise DatasetError(f"{kit.folder} has no evaluation samples", "make the kit with --dataset")
    if taken["fingerprint"] != dataset.fingerprint:
        told = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in taken["protocol"].items())
        raise DatasetError(f"{kit.folder} is of other samples than these: {told}", "give those")
    return evaluate(kit, dataset, flip_test=taken["flip_test"])


@dataclass(frozen=True)
class Collection:
    """The results of a build kit.

    `check` compares its outputs with the graph's on the probes, `evaluation` is None without a dataset, and `speed` is
    that of the host's timed runs.
    """

    kit: Collected
    check: dict[str, Any]
    evaluation: Evaluation | None
    speed: Speed


def collect(folder: Path, dataset: Any = None) -> Collection:
    """Read a build kit that came back with results, compare it with the graph, and evaluate it on `dataset`.

    Raises ArtifactError naming what is missing or belongs to another kit, ParityError where the compiled model
    disagrees with the graph, and DatasetError where the kit was made for other samples.
    """
    kit = load_kit(folder)
    check = agreement(kit)
    return Collection(kit, check, None if dataset is None else evaluation(kit, dataset), kit.speed())


class Replay:
    """A session that finds an input by its digest and answers with the output that came back for it."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.shapes, self.rows = folder, manifest["outputs"], manifest["rows"]
        self.places = {digest: (file, i) for file, found in self.rows.items() for i, digest in enumerate(found)}
        self.lock = threading.Lock()
        self.read = lru_cache(FILES_IN_MEMORY)(self.outputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Recorded outputs by name; raises ArtifactError for an input that the kit does not have."""
        ((_, array),) = inputs.items()
        found = [self._row(array[i : i + 1]) for i in range(len(array))]
        return {name: np.stack([row[name] for row in found]) for name in self.shapes}

    def _row(self, image: np.ndarray) -> dict[str, np.ndarray]:
        try:
            file, place = self.places[row_digest(image)]
        except KeyError:
            raise ArtifactError(
                f"{self.folder.parent} has no output for one of these inputs: they were prepared otherwise",
                "collect with the versions that made the kit, or make it again",
            ) from None
        with self.lock:
            outputs = self.read(file)
        return {name: outputs[name][place] for name in self.shapes}

    def outputs(self, file: str) -> dict[str, np.ndarray]:
        """What came back for a file of inputs; raises ArtifactError where it is not whole."""
        path = self.folder / file
        found = _arrays(path)
        for name, shape in self.shapes.items():
            expected = (len(self.rows[file]), *shape[1:])
            if name not in found or found[name].shape != expected:
                got = list(found[name].shape) if name in found else "nothing"
                raise ArtifactError(f"{path} has {got} for the output {name}, expected {list(expected)}", AGAIN)
        return found


def _by_row(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_file(path, ArtifactError) as stream:
            return read_npz(stream)
    except MALFORMED as error:
        raise ArtifactError(f"{path} is not a whole .npz file: {error}", AGAIN) from error
