"""Evaluation: the samples of a task run through the session of a backend, and the predictions become metrics.

This is the only loop that uses both a task and a backend. Each core processes whole batches, from image to predictions,
on a shared session that computes each call on one core. No core waits for another, so that this is faster than one
inference spread over all cores. The session runs in a process of its own, so that a crash of the runtime does not end
the loop. Samples, predictions and the journal are in this process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.input_shapes import smallest_shape
from sandglass.backends import DEFAULTS, Session
from sandglass.core import host
from sandglass.core.errors import SandglassError
from sandglass.core.host import Host
from sandglass.core.image_ids import Id
from sandglass.core.json_values import JsonObject, JsonRecord
from sandglass.core.parallel import wait_for
from sandglass.core.resume import Journal
from sandglass.datasets import Dataset, Read
from sandglass.metrics import Change, Interval, Metric, bootstrap
from sandglass.sources.card import Card
from sandglass.tasks import Outputs, Prediction, Sample, Task, View, check_dataset, load_task

AHEAD = 4  # portions of work that wait for each core
# Work in a portion, which one thread gets at once. For a small network, passing on a single batch would take as long as
# the batch itself.
PORTION_SECONDS = 0.01
Progress = Callable[[int, int], None]


class Images(Protocol):
    """The source of images: a dataset, or another object that reads them by id."""

    @property
    def read(self) -> Read: ...


class Origin(TypedDict):
    """The origin of a result, with which it can be checked and reproduced."""

    artifact_sha256: str
    graph_sha256: str
    checkpoint_sha256: str | None
    plan_sha256: str | None
    made_with: object
    backend_version: str
    host: Host
    command: str


@dataclass(frozen=True)
class Evaluation:
    """The result of one artifact on one dataset.

    metrics      by name, with intervals
    protocol     the conditions: dataset, subset, flip test, number of samples
    origin       the artifact, the machine and the command
    predictions  those of the task, in the order of the samples
    seconds      duration of this run; a resumed run counts only its own part
    resumed      number of samples from an earlier run that was interrupted
    """

    artifact: Artifact
    dataset: Dataset
    metrics: dict[str, Metric]
    protocol: JsonObject
    origin: Origin
    predictions: list[Prediction]
    seconds: float
    resumed: int

    def to_dict(self) -> JsonRecord:
        """The result as JSON data, without the predictions."""
        return {
            "model": self.artifact.card.name,
            "input": list(self.artifact.card.input.size),
            "backend": self.artifact.backend,
            "precision": self.artifact.precision,
            **({"shapes": self.artifact.manifest.shapes} if self.artifact.shapes else {}),
            "metrics": self.metrics,
            "samples": len(self.predictions),
            "protocol": self.protocol,
            "origin": self.origin,
            "seconds": round(self.seconds, 3),
            "resumed_samples": self.resumed,
        }


def evaluate(
    artifact: Artifact,
    dataset: Dataset,
    *,
    threads: int | None = None,
    batch: int = 1,
    flip_test: bool | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    journal: Journal[Prediction] | None = None,
) -> Evaluation:
    """Run all samples of `dataset` through `artifact` and compute the metrics of the task.

    threads    batches that are processed at the same time (default: one for each core)
    batch      images in one call of the runtime
    flip_test  average each output with that of the mirrored image (default: as the card says, or not)
    seed       seed of the bootstrap
    progress   called with the numbers of finished and of all samples
    journal    stores finished samples; the default is a file in the user's cache

    If a run with the same artifact, dataset and protocol was killed, this run resumes it. Raises BusyError if another
    run evaluates the same artifact on the same data, DatasetError for a dataset that does not suit the task, InputError
    for an image that is larger than the artifact allows, and the BackendError of a runtime that fails.
    """
    task = load_task(artifact.card.task)
    check_dataset(task, dataset)
    samples = task.samples(dataset)
    if flip_test is None:
        flip_test = flips(artifact.card)
    protocol = {**dataset.protocol, **task.PROTOCOL, "flip_test": flip_test, "samples": len(samples)}
    if journal is None:
        journal = Journal({"artifact": artifact.sha256, "dataset": dataset.fingerprint, "protocol": protocol})
    workers = threads or host.threads()
    with journal, opened(artifact, workers) as session:
        resumed = len(journal.done)
        rest = [sample for sample in samples if sample.index not in journal.done]
        started = time.perf_counter()
        for part in infer(task, artifact, session, dataset, rest, batch, flip_test, workers):
            journal.append(part)
            progress(len(journal.done), len(samples))
        seconds = time.perf_counter() - started
        predictions = [journal.done[sample.index] for sample in samples]
        metrics = task.score(predictions, dataset, seed=seed)
        journal.close()
    return Evaluation(artifact, dataset, metrics, protocol, origin(artifact), predictions, seconds, resumed)


def evaluate_each(
    artifacts: Sequence[Artifact], evaluated: Callable[[Artifact], Evaluation]
) -> list[Evaluation | SandglassError]:
    """For each artifact the evaluation by `evaluated`, or its error; an error does not stop the other artifacts."""
    results: list[Evaluation | SandglassError] = []
    for artifact in artifacts:
        try:
            results.append(evaluated(artifact))
        except SandglassError as error:
            results.append(error)
    return results


def opened(artifact: Artifact, workers: int) -> AbstractContextManager[Session]:
    """A session that computes `workers` calls at the same time, each on one core, with the runtime's defaults."""
    return artifact.isolated(threads=1, settings=DEFAULTS, callers=workers)


def flips(card: Card) -> bool:
    """Whether a card asks for the flip test: each output averaged with that of the mirrored image."""
    return bool(card.decode.get("flip_test", False))


def infer(
    task: Task,
    artifact: Artifact,
    session: Session,
    images: Images,
    samples: Sequence[Sample],
    batch: int = 1,
    flip_test: bool = False,
    workers: int = 1,
) -> Iterator[dict[int, Prediction]]:
    """Yield predictions by sample index, in order, one or several batches at a time, computed by `workers` threads.

    If the inputs of a batch have several shapes, each shape runs in a batch of its own. Raises InputError for an image
    that needs a larger input than the artifact has.
    """
    portions = _Portions(task, artifact, session, batch, flip_test)
    pool = ThreadPoolExecutor(workers)
    try:
        # Images are read some batches before they are needed, so that no thread waits long for one.
        planned: deque[tuple[Sequence[Sample], list[Future[np.ndarray]]]] = deque()
        waiting: deque[Future[dict[int, Prediction]]] = deque()
        pending: dict[Id, Future[np.ndarray]] = {}
        start = 0
        while start < len(samples):
            part = samples[start : start + portions.size]
            start += len(part)
            keys = dict.fromkeys(sample.image_id for sample in part)
            pending = {key: pending.get(key) or pool.submit(images.read, key) for key in keys}
            planned.append((part, [pending[sample.image_id] for sample in part]))
            if len(planned) > AHEAD * workers:
                waiting.append(pool.submit(portions.predictions, *planned.popleft()))
            if len(waiting) > AHEAD * workers:
                yield wait_for(waiting.popleft(), "a batch")
        waiting.extend(pool.submit(portions.predictions, *plan) for plan in planned)
        while waiting:
            yield wait_for(waiting.popleft(), "a batch")
    finally:
        # Do not wait for work that is no longer needed, or for a session that does not answer.
        pool.shutdown(wait=False, cancel_futures=True)


class _Portions:
    """Processes a portion of samples, from images to predictions, on the calling thread."""

    def __init__(self, task: Task, artifact: Artifact, session: Session, batch: int, flip_test: bool) -> None:
        self.task, self.artifact, self.session = task, artifact, session
        self.batch, self.flip_test = batch, flip_test
        self.size = batch  # samples in a portion; it adapts to PORTION_SECONDS

    def predictions(self, part: Sequence[Sample], images: Sequence[Future[np.ndarray]]) -> dict[int, Prediction]:
        """Predictions by sample index, in the order of `part`."""
        started = time.perf_counter()
        prepared = [
            self._prepared(wait_for(image, "reading an image"), sample)
            for sample, image in zip(part, images, strict=True)
        ]
        by_index: dict[int, Prediction] = {}
        for shape in dict.fromkeys(array.shape for array, _ in prepared):
            places = [i for i, (array, _) in enumerate(prepared) if array.shape == shape]
            decoded = self._decoded([prepared[i] for i in places])
            by_index |= {part[i].index: prediction for i, prediction in zip(places, decoded, strict=True)}
        elapsed = time.perf_counter() - started
        self.size = self.batch * max(1, int(PORTION_SECONDS * len(part) / self.batch / elapsed))
        return {sample.index: by_index[sample.index] for sample in part}

    def _prepared(self, image: np.ndarray, sample: Sample) -> tuple[np.ndarray, View]:
        """The input of a sample, in the smallest shape of the artifact that is large enough, and its view."""
        card, shapes = self.artifact.card, self.task.SHAPES
        if not self.artifact.shapes or shapes is None:
            return self.task.prepare(image, sample, card)
        height, width = (sample.box[3], sample.box[2]) if sample.box else image.shape[:2]
        shape = smallest_shape(self.artifact.shapes, shapes.needed((height, width), card), f"image {sample.image_id}")
        return shapes.prepare(image, sample, card, shape)

    def _decoded(self, prepared: Sequence[tuple[np.ndarray, View]]) -> list[Prediction]:
        """Predictions for inputs of one shape."""
        arrays = [array for array, _ in prepared]
        outputs = [self._run(np.stack(arrays[i : i + self.batch])) for i in range(0, len(arrays), self.batch)]
        return self.task.decode(_joined(outputs), [view for _, view in prepared], self.artifact.card)

    def _run(self, inputs: np.ndarray) -> Outputs:
        name = self.artifact.input_name
        if not self.flip_test:
            return self.session.run({name: inputs})
        outputs = self.session.run({name: self.task.flip_inputs(inputs)})
        return self.task.merge_flipped(outputs, self.artifact.card)


def _joined(outputs: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches as one; the outputs of a single batch, which may be large, are not copied."""
    if len(outputs) == 1:
        return outputs[0]
    return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}


def changes(results: Sequence[Evaluation], seed: int = 0) -> list[dict[str, Change] | None]:
    """The paired change of each result against the first fp32 result; None for that result, or if there is none.

    All results are of the same model and dataset.
    """
    base = next((result for result in results if result.artifact.precision == "fp32"), None)
    return [
        None
        if base is None or result is base
        else load_task(result.artifact.card.task).paired(
            base.predictions, result.predictions, result.dataset, seed=seed
        )
        for result in results
    ]


def has_truths(task: Task, metrics: Mapping[str, Interval]) -> bool:
    """Whether metrics were computed with labels: without labels the first metric is -1 or NaN."""
    return metrics[task.METRICS[0]]["value"] >= 0


def fidelity(base: Evaluation, predictions: Sequence[Prediction], seed: int = 0) -> dict[str, Interval]:
    """Fidelity: the agreement of predictions with those of `base` on the same samples, by name of the measure."""
    task = load_task(base.artifact.card.task)
    agreements = [task.agreement(a, b) for a, b in zip(base.predictions, predictions, strict=True)]
    return mean_agreement(task, agreements, [sample["image_id"] for sample in base.predictions], seed)


def mean_agreement(
    task: Task, agreements: Sequence[Mapping[str, float]], images: Sequence[Hashable], seed: int = 0
) -> dict[str, Interval]:
    """The mean agreement over samples, with bootstrap intervals over images, by name of the measure.

    `agreements` holds the agreement of each sample, by the names in the task's FIDELITY; a NaN does not count. `images`
    holds the image of each sample.
    """
    numbers = {image: i for i, image in enumerate(dict.fromkeys(images))}
    positions = [numbers[image] for image in images]
    values = np.array([[entry[name] for name in task.FIDELITY] for entry in agreements])  # (samples, measures)
    sums, counts = np.zeros((2, len(numbers), len(task.FIDELITY)))  # (images, measures) each
    np.add.at(sums, positions, np.nan_to_num(values))
    np.add.at(counts, positions, np.isfinite(values))
    # Sums and counts are resampled together, since a mean over samples is a ratio of sums over images.
    drawn, present = np.split(bootstrap.means(np.hstack([sums, counts]), seed), 2, axis=1)
    resampled = np.divide(drawn, present, out=np.full_like(drawn, np.nan), where=present > 0)
    measures: dict[str, Interval] = {}
    for i, name in enumerate(task.FIDELITY):
        low, high = bootstrap.interval(resampled[:, i])
        value = sums[:, i].sum() / counts[:, i].sum() if counts[:, i].any() else float("nan")
        measures[name] = {"value": float(value), "low": low, "high": high}
    return measures


def origin(artifact: Artifact) -> Origin:
    """The origin of a result of this artifact on this machine."""
    manifest = artifact.manifest
    return {
        "artifact_sha256": artifact.sha256,
        "graph_sha256": manifest.graph_sha256,
        "checkpoint_sha256": manifest.checkpoint_sha256,
        "plan_sha256": manifest.plan_sha256,
        "made_with": manifest.versions,
        "backend_version": artifact.version(),
        "host": host.describe(),
        "command": host.command(),
    }
