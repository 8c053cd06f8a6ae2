"""Collect the results of a build kit that ran on its host, as those of an artifact.

A kit with results behaves like an artifact: its session returns the outputs that the host recorded. So the kit is
evaluated by the same code as all artifacts.
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
from sandglass.graph.output_parts import whole_outputs
from sandglass.kit.make import EXPECTED, PROBES, row_digest
from sandglass.measure.benchmarking import Speed, speed
from sandglass.measure.evaluation import Evaluation, evaluate

RESULTS, TIMINGS = "results", "timings.json"
Seconds = Annotated[float, Meta(gt=0, le=1e9)]  # the upper limit also excludes infinity
FILES_IN_MEMORY = 8
AGAIN = "run `sh build.sh && python3 run.py` in the kit on its host, and copy the whole folder results/ back"


class Report(Record, frozen=True, kw_only=True):
    """The content of `timings.json`, which `run.py` writes on the host.

    `kit` is the hash of the kit's manifest. `host` describes the host. `seconds` has the time of each run of `batch`
    images.
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
    """A kit with its results and the report of the host."""

    kit: KitManifest
    report: Report

    @property
    def size(self) -> int:
        """The size of the compiled model in bytes, as reported by the host."""
        return self.report.model_bytes

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the host's report, which contains the hash of the kit."""
        return sha256(self.folder / RESULTS / TIMINGS)

    def version(self) -> str:
        """The version of the runtime on the host."""
        return self.report.runtime

    def open(self, threads: int | None = None, settings: Settings | None = None, callers: int = 1) -> Replay:
        """A session that returns the recorded outputs. All arguments are ignored."""
        return Replay(self.folder / RESULTS, self.kit)

    def isolated(
        self, threads: int | None = None, settings: Settings | None = None, callers: int = 1
    ) -> AbstractContextManager[Replay]:
        """The same session as that of `open`, in this process, because no runtime runs that could crash."""
        return nullcontext(self.open())

    def speed(self) -> Speed:
        """The speed in the host's timed runs. The peak memory is unknown (NaN)."""
        return speed(self, self.report.seconds, math.nan, 1, self.report.batch)

    def speed_dict(self) -> JsonRecord:
        """The speed as JSON data, with the conditions on the host."""
        conditions = {"runtime": self.version(), "host": self.report.host, "command": "run.py of the kit"}
        return {**self.speed().to_dict(), "peak_memory_mib": None, "threads": None, **conditions}


def load_kit(folder: Path) -> Collected:
    """Read a kit with results. Raises ArtifactError for a missing file, and for results of another kit."""
    kit = read_kit_manifest(folder)
    if PROBES not in kit.rows:
        raise ArtifactError(f"{folder / KIT}: the field rows has no {PROBES}", "make the kit again")
    results = folder / RESULTS
    if not results.is_dir():
        raise ArtifactError(f"{folder} has no folder {RESULTS}: the kit was not run yet", AGAIN)
    missing = [file for file in (*kit.rows, TIMINGS) if not (results / file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ArtifactError(f"{results} lacks {missing[0]}{more} (of {len(kit.rows) + 1} files)", AGAIN)
    report = read_json_record(results / TIMINGS, Report, ArtifactError, AGAIN)
    if report.kit != sha256(folder / KIT):
        raise ArtifactError(f"{results} has the results of another kit", "copy the results of this kit into it")
    return Collected(folder, kit.manifest(), kit.card, kit, report)


def agreement(kit: Collected) -> Check:
    """Compare the outputs of the compiled model with those of the graph on the probes.

    Raises ParityError if they differ too much.
    """
    expected, outputs = _arrays(kit.folder / EXPECTED), kit.open().outputs(PROBES)
    rows = _by_row(expected)
    return parity.compare(rows, _by_row(outputs), kit.precision, whole_outputs(rows[0]))


def evaluation(kit: Collected, dataset: Dataset) -> Evaluation:
    """Evaluate the kit's outputs on the samples that it contains.

    Raises DatasetError if the kit has no evaluation samples, or not those of `dataset`.
    """
    samples = kit.kit.samples
    if samples is None:
        raise DatasetError(f"{kit.folder} has no evaluation samples", "make the kit with --dataset")
    if samples.fingerprint != dataset.fingerprint:
        protocol = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in samples.protocol.items())
        raise DatasetError(f"{kit.folder} was made with other samples: {protocol}", "give the options of those")
    return evaluate(kit, dataset, flip_test=samples.flip_test)


@dataclass(frozen=True)
class Collection:
    """The results of a build kit.

    `check` is the comparison with the graph on the probes. `evaluation` is None without a dataset. `speed` comes from
    the host's timed runs.
    """

    kit: Collected
    check: Check
    evaluation: Evaluation | None
    speed: Speed


def collect(folder: Path, dataset: Dataset | None = None) -> Collection:
    """Read a build kit with results, compare it with the graph, and evaluate it on `dataset`.

    Raises ArtifactError for a missing file and for results of another kit, ParityError if the outputs differ too much
    from those of the graph, and DatasetError if the kit was made with other samples.
    """
    kit = load_kit(folder)
    check = agreement(kit)
    return Collection(kit, check, None if dataset is None else evaluation(kit, dataset), kit.speed())


class Replay:
    """A session that finds an input by its digest and returns the output that the host recorded for it."""

    def __init__(self, folder: Path, kit: KitManifest) -> None:
        self.folder, self.shapes, self.rows = folder, kit.outputs, kit.rows
        self.places = {digest: (file, i) for file, digests in self.rows.items() for i, digest in enumerate(digests)}
        self.lock = threading.Lock()
        self.read = lru_cache(FILES_IN_MEMORY)(self.outputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Recorded outputs by name, batch first. Raises ArtifactError for an input that is not in the kit."""
        ((_, array),) = inputs.items()
        rows = [self._row(array[i : i + 1]) for i in range(len(array))]
        return {name: np.stack([row[name] for row in rows]) for name in self.shapes}

    def _row(self, image: np.ndarray) -> dict[str, np.ndarray]:
        try:
            file, place = self.places[row_digest(image)]
        except KeyError:
            raise ArtifactError(
                f"{self.folder.parent} has no output for one of the inputs: another version prepares them differently",
                "run `sandglass collect` with the version that made the kit, or make the kit again",
            ) from None
        with self.lock:
            outputs = self.read(file)
        return {name: outputs[name][place] for name in self.shapes}

    def outputs(self, file: str) -> dict[str, np.ndarray]:
        """The recorded outputs for a file of inputs. Raises ArtifactError for a missing output or a wrong shape."""
        path = self.folder / file
        arrays = _arrays(path)
        for name, shape in self.shapes.items():
            expected = (len(self.rows[file]), *shape[1:])
            if name not in arrays or arrays[name].shape != expected:
                actual = f"the shape {list(arrays[name].shape)}" if name in arrays else "nothing"
                raise ArtifactError(f"{path} has {actual} for the output {name}, expected {list(expected)}", AGAIN)
        return arrays


def _by_row(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_file(path, ArtifactError) as stream:
            return read_npz(stream)
    except MALFORMED as error:
        raise ArtifactError(f"{path} is not a complete .npz file: {error}", AGAIN) from error
