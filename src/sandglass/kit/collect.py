"""Collecting a build kit that came back: its outputs and timings as those of any artifact.

A kit with results is an artifact whose session answers from what the host wrote down, so that the evaluation is the
one that every artifact gets.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from sandglass.artifacts import parity
from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.kit_manifest import KIT, KitManifest, read_kit_manifest
from sandglass.artifacts.manifest import Check
from sandglass.backends import Arrays, Settings
from sandglass.core.errors import ArtifactError, DatasetError
from sandglass.core.files import sha256
from sandglass.core.json_values import JsonRecord, JsonValue
from sandglass.core.reading import MALFORMED, open_file
from sandglass.core.records import Record, read_json_record
from sandglass.datasets import Dataset
from sandglass.formats.npz import read_npz
from sandglass.kit.make import EXPECTED, PROBES, row_digest
from sandglass.measure.benchmarking import Speed, speed
from sandglass.measure.evaluation import Evaluation, evaluate

RESULTS, TIMINGS = "results", "timings.json"
Seconds = Annotated[float, Meta(gt=0, le=1e9)]  # infinity is refused too
FILES_IN_MEMORY = 8
AGAIN = "run `sh build.sh && python3 run.py` in the kit on that host, and bring results/ back whole"


class Report(Record, frozen=True, kw_only=True):
    """The content of `timings.json`: what the host says of itself, and seconds of each timed run of one image.

    `kit` is the hash of the kit's manifest.
    """

    kit: str
    model_sha256: str = ""
    model_bytes: Annotated[int, Meta(ge=0)]
    runtime: str
    host: dict[str, JsonValue]
    batch: Annotated[int, Meta(ge=1)]
    seconds: Annotated[list[Seconds], Meta(min_length=1)]


@dataclass(frozen=True)
class Collected(Artifact):
    """A kit with its results, and what the host reports of itself and its timings."""

    kit: KitManifest
    report: Report

    @property
    def size(self) -> int:
        """Bytes of the compiled model, as the host reports."""
        return self.report.model_bytes

    @cached_property
    def sha256(self) -> str:
        """Hash of what the host reports, which holds that of the kit."""
        return sha256(self.folder / RESULTS / TIMINGS)

    def version(self) -> str:
        """The version of the runtime on that host."""
        return self.report.runtime

    def open(self, threads: int | None = None, settings: Settings | None = None, callers: int = 1) -> Replay:
        """A session that answers with the outputs that came back."""
        return Replay(self.folder / RESULTS, self.kit)

    def isolated(
        self, threads: int | None = None, settings: Settings | None = None, callers: int = 1
    ) -> AbstractContextManager[Replay]:
        """The same: no runtime is at work that could crash."""
        return nullcontext(self.open())

    def speed(self) -> Speed:
        """The host's timed runs of one image; peak memory is not known."""
        return speed(self, self.report.seconds, math.nan, 1, self.report.batch)

    def speed_dict(self) -> JsonRecord:
        """The speed as JSON-able data with the conditions on that host."""
        told = {"runtime": self.version(), "host": self.report.host, "command": "run.py of the kit"}
        return {**self.speed().to_dict(), "peak_memory_mib": None, "threads": None, **told}


def load_kit(folder: Path) -> Collected:
    """Read a kit that came back. Raises ArtifactError naming what is missing or belongs to another kit."""
    kit = read_kit_manifest(folder)
    if PROBES not in kit.rows:
        raise ArtifactError(f"{folder / KIT}: rows lacks {PROBES}", "make the kit again")
    results = folder / RESULTS
    if not results.is_dir():
        raise ArtifactError(f"{folder} has no {RESULTS}: it was not run yet", AGAIN)
    missing = [file for file in (*kit.rows, TIMINGS) if not (results / file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ArtifactError(f"{results} lacks {missing[0]}{more} of {len(kit.rows) + 1} files", AGAIN)
    report = read_json_record(results / TIMINGS, Report, ArtifactError, AGAIN)
    if report.kit != sha256(folder / KIT):
        raise ArtifactError(f"{results} is of another kit", "bring back the results of this one")
    return Collected(folder, kit.manifest(), kit.card, kit, report)


def agreement(kit: Collected) -> Check:
    """The compiled model beside the graph on the probes; raises ParityError where they disagree."""
    expected, found = _arrays(kit.folder / EXPECTED), kit.open().outputs(PROBES)
    return parity.compare(_by_row(expected), _by_row(found), kit.precision)


def evaluation(kit: Collected, dataset: Dataset) -> Evaluation:
    """The kit's outputs scored on the samples that it was made for.

    Raises DatasetError where the kit took none along, or others than those of `dataset`.
    """
    taken = kit.kit.samples
    if taken is None:
        raise DatasetError(f"{kit.folder} has no evaluation samples", "make the kit with --dataset")
    if taken.fingerprint != dataset.fingerprint:
        protocol = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in taken.protocol.items())
        raise DatasetError(f"{kit.folder} is of other samples than these: {protocol}", "give those")
    return evaluate(kit, dataset, flip_test=taken.flip_test)


@dataclass(frozen=True)
class Collection:
    """The results of a build kit.

    `check` compares its outputs with the graph's on the probes, `evaluation` is None without a dataset, and `speed` is
    that of the host's timed runs.
    """

    kit: Collected
    check: Check
    evaluation: Evaluation | None
    speed: Speed


def collect(folder: Path, dataset: Dataset | None = None) -> Collection:
    """Read a build kit that came back with results, compare it with the graph, and evaluate it on `dataset`.

    Raises ArtifactError naming what is missing or belongs to another kit, ParityError where the compiled model
    disagrees with the graph, and DatasetError where the kit was made for other samples.
    """
    kit = load_kit(folder)
    check = agreement(kit)
    return Collection(kit, check, None if dataset is None else evaluation(kit, dataset), kit.speed())


class Replay:
    """A session that finds an input by its digest and answers with the output that came back for it."""

    def __init__(self, folder: Path, kit: KitManifest) -> None:
        self.folder, self.shapes, self.rows = folder, kit.outputs, kit.rows
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
