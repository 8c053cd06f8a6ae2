"""The only loop that sees both seams: a task's samples through a backend's session, to metrics.

Each of the machine's cores takes a batch all the way from image to predictions, on a session that all share and that
computes each call on one core. No core waits for another, so this is faster than one inference spread over them all.
The session runs in a process of its own: what a runtime does there cannot end the loop. Samples, predictions and the
journal are here.
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

AHEAD = 4  # portions of batches a core
# Of work that is handed over at once: handing over a batch of a small network takes as long as the batch.
PORTION_SECONDS = 0.01
Progress = Callable[[int, int], None]


class Images(Protocol):
    """Where images come from: a dataset, or anything else that reads them."""

    @property
    def read(self) -> Read: ...


class Origin(TypedDict):
    """What it takes to believe a result, or to get it again."""

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
    """What one artifact reached on one dataset.

    `metrics` are by name; `protocol` and `origin` say what was measured and by what; `predictions` are the task's own,
    in sample order; `seconds` counts this run's part only.
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
        """JSON-able result, without the predictions."""
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
    """Run every sample of `dataset` through `artifact` and score the predictions by the task's metric.

    `threads` batches are worked on at once (default: one for each core). `flip_test` averages each output with that of
    the mirrored image (default: what the card says, else not). A run with the same artifact, dataset and protocol that
    was killed is resumed; `journal` replaces the one in the user's cache. Raises BusyError where another run evaluates
    the same artifact on the same data.
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
    """For each artifact what `evaluated` returns, or the error that stopped it: it stops no other."""
    results: list[Evaluation | SandglassError] = []
    for artifact in artifacts:
        try:
            results.append(evaluated(artifact))
        except SandglassError as error:
            results.append(error)
    return results


def opened(artifact: Artifact, workers: int) -> AbstractContextManager[Session]:
    """A session that computes `workers` calls at once, each on one core, with the runtime's own defaults."""
    return artifact.isolated(threads=1, settings=DEFAULTS, callers=workers)


def flips(card: Card) -> bool:
    """Whether a card wants each output averaged with that of the mirrored image."""
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
    """Yield predictions by sample index, a batch or some at a time, in order; `session` is run by `workers` threads.

    Samples of a batch whose inputs have several shapes run in a batch for each. Raises InputError for an image that
    needs an input larger than the artifact has.
    """
    portions = _Portions(task, artifact, session, batch, flip_test)
    pool = ThreadPoolExecutor(workers)
    try:
        # Images are queued some batches before the work that needs them: what waits for an image waits shortly.
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
        # Nobody waits for work that is not needed any more, nor for a session that answers no longer.
        pool.shutdown(wait=False, cancel_futures=True)


class _Portions:
    """Some batches at once, all the way from their images to predictions, on the thread that calls."""

    def __init__(self, task: Task, artifact: Artifact, session: Session, batch: int, flip_test: bool) -> None:
        self.task, self.artifact, self.session = task, artifact, session
        self.batch, self.flip_test = batch, flip_test
        self.size = batch  # samples that a thread is given at once

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
        """A sample's input, in the smallest of the artifact's shapes that holds it, and what `decode` needs."""
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
    """Outputs of several batches as those of one; of a single one, which may be large, no copy is made."""
    if len(outputs) == 1:
        return outputs[0]
    return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}


def changes(results: Sequence[Evaluation], seed: int = 0) -> list[dict[str, Change] | None]:
    """Each result's paired change against the first fp32 result of the same model and dataset; None for that one."""
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
    """Whether metrics were measured against truths: without any the first one is -1 or NaN."""
    return metrics[task.METRICS[0]]["value"] >= 0


def fidelity(base: Evaluation, predictions: Sequence[Prediction], seed: int = 0) -> dict[str, Interval]:
    """Agreement of predictions with those of `base` on the same samples."""
    task = load_task(base.artifact.card.task)
    agreements = [task.agreement(a, b) for a, b in zip(base.predictions, predictions, strict=True)]
    return mean_agreement(task, agreements, [sample["image_id"] for sample in base.predictions], seed)


def mean_agreement(
    task: Task, agreements: Sequence[Mapping[str, float]], images: Sequence[Hashable], seed: int = 0
) -> dict[str, Interval]:
    """How near predictions are to others for the same samples.

    `agreements` is the task's agreement of each sample. Each of its FIDELITY measures is the mean over samples where it
    has a meaning. `images` names the image of each sample; the intervals are over images.
    """
    number = {image: i for i, image in enumerate(dict.fromkeys(images))}
    places = [number[image] for image in images]
    values = np.array([[entry[name] for name in task.FIDELITY] for entry in agreements])
    sums, counts = np.zeros((2, len(number), len(task.FIDELITY)))
    np.add.at(sums, places, np.nan_to_num(values))
    np.add.at(counts, places, np.isfinite(values))
    drawn, present = np.split(bootstrap.means(np.hstack([sums, counts]), seed), 2, axis=1)
    resampled = np.divide(drawn, present, out=np.full_like(drawn, np.nan), where=present > 0)
    measures: dict[str, Interval] = {}
    for i, name in enumerate(task.FIDELITY):
        low, high = bootstrap.interval(resampled[:, i])
        value = sums[:, i].sum() / counts[:, i].sum() if counts[:, i].any() else float("nan")
        measures[name] = {"value": float(value), "low": low, "high": high}
    return measures


def origin(artifact: Artifact) -> Origin:
    """What it takes to believe a result, or to get it again."""
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
