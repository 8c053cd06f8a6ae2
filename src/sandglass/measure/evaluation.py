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
from types import ModuleType
from typing import Any

import numpy as np

from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.input_shapes import smallest_shape
from sandglass.backends import DEFAULTS, Session
from sandglass.core import discover, host
from sandglass.core.errors import SandglassError
from sandglass.core.parallel import wait_for
from sandglass.core.resume import Journal
from sandglass.metrics import bootstrap
from sandglass.sources.card import Card
from sandglass.tasks import check_dataset

AHEAD = 4  # portions of batches a core
# Of work that is handed over at once: handing over a batch of a small network takes as long as the batch.
PORTION_SECONDS = 0.01
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What one artifact reached on one dataset.

    `metrics` maps a metric's name to value, low and high of its 95 % interval; `protocol` and `origin` say what was
    measured and by what; `predictions` are the task's own, in sample order; `seconds` counts this run's part only.
    """

    artifact: Artifact
    dataset: Any
    metrics: dict[str, Any]
    protocol: dict[str, Any]
    origin: dict[str, Any]
    predictions: list[dict[str, Any]]
    seconds: float
    resumed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able result, without the predictions."""
        return {
            "model": self.artifact.card.name,
            "input": list(self.artifact.card.input.size),
            "backend": self.artifact.backend,
            "precision": self.artifact.precision,
            **({"shapes": self.artifact.manifest["shapes"]} if self.artifact.shapes else {}),
            "metrics": self.metrics,
            "samples": len(self.predictions),
            "protocol": self.protocol,
            "origin": self.origin,
            "seconds": round(self.seconds, 3),
            "resumed_samples": self.resumed,
        }


def evaluate(
    artifact: Artifact,
    dataset: Any,
    *,
    threads: int | None = None,
    batch: int = 1,
    flip_test: bool | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    journal: Journal | None = None,
) -> Evaluation:
    """Run every sample of `dataset` through `artifact` and score the predictions by the task's metric.

    `threads` batches are worked on at once (default: one for each core). `flip_test` averages each output with that of
    the mirrored image (default: what the card says, else not). A run with the same artifact, dataset and
    protocol that was killed before goes on where it stopped; `journal` replaces the one in the user's cache. Raises
    BusyError where another run evaluates the same artifact on the same data.
    """
    task = discover.load("tasks", artifact.card.task)
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
        todo = [sample for sample in samples if sample.index not in journal.done]
        started = time.perf_counter()
        for done in infer(task, artifact, session, dataset, todo, batch, flip_test, workers):
            journal.append(done)
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
    task: ModuleType,
    artifact: Artifact,
    session: Session,
    dataset: Any,
    samples: Sequence[Any],
    batch: int = 1,
    flip_test: bool = False,
    workers: int = 1,
) -> Iterator[dict[int, dict[str, Any]]]:
    """Yield predictions by sample index, a batch or some at a time, in order; `session` is run by `workers` threads.

    Samples of a batch whose inputs have several shapes run in a batch for each. Raises InputError for an image that
    needs an input larger than the artifact has.
    """
    card = artifact.card
    together = 1  # batches that a thread is given at once

    def work(part: Sequence[Any], images: list[Future[np.ndarray]]) -> dict[int, dict[str, Any]]:
        nonlocal together
        began = time.perf_counter()
        prepared = [
            _prepared(task, artifact, wait_for(i, "reading an image"), sample)
            for sample, i in zip(part, images, strict=True)
        ]
        found: dict[int, dict[str, Any]] = {}
        for shape in dict.fromkeys(array.shape for array, _ in prepared):
            places = [i for i, (array, _) in enumerate(prepared) if array.shape == shape]
            chosen = [prepared[i] for i in places]
            outputs = [run([array for array, _ in chosen[i : i + batch]]) for i in range(0, len(chosen), batch)]
            decoded = task.decode(_joined(outputs), [meta for _, meta in chosen], card)
            found |= {part[i].index: prediction for i, prediction in zip(places, decoded, strict=True)}
        together = max(1, int(PORTION_SECONDS * len(part) / batch / (time.perf_counter() - began)))
        return {sample.index: found[sample.index] for sample in part}

    def run(arrays: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        inputs = np.stack(arrays)
        outputs = session.run({artifact.input_name: task.flip_inputs(inputs) if flip_test else inputs})
        return task.merge_flipped(outputs, card) if flip_test else outputs  # type: ignore[no-any-return]

    pool = ThreadPoolExecutor(workers)
    try:
        # Images are queued some batches before the work that needs them: what waits for an image waits shortly.
        planned: deque[tuple[Sequence[Any], list[Future[np.ndarray]]]] = deque()
        waiting: deque[Future[dict[int, dict[str, Any]]]] = deque()
        images: dict[Any, Future[np.ndarray]] = {}
        start = 0
        while start < len(samples):
            part = samples[start : start + batch * together]
            start += len(part)
            keys = dict.fromkeys(sample.image_id for sample in part)
            images = {key: images.get(key) or pool.submit(dataset.read, key) for key in keys}
            planned.append((part, [images[sample.image_id] for sample in part]))
            if len(planned) > AHEAD * workers:
                waiting.append(pool.submit(work, *planned.popleft()))
            if len(waiting) > AHEAD * workers:
                yield wait_for(waiting.popleft(), "a batch")
        waiting.extend(pool.submit(work, *plan) for plan in planned)
        while waiting:
            yield wait_for(waiting.popleft(), "a batch")
    finally:
        # Nobody waits for work that is not wanted any more, nor for a session that answers no longer.
        pool.shutdown(wait=False, cancel_futures=True)


def _joined(outputs: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Outputs of several batches as those of one; of a single one, which may be large, no copy is made."""
    if len(outputs) == 1:
        return outputs[0]
    return {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}


def _prepared(task: ModuleType, artifact: Artifact, image: np.ndarray, sample: Any) -> tuple[np.ndarray, Any]:
    """A sample's input, in the smallest of the artifact's shapes that holds it, and what `decode` needs."""
    card = artifact.card
    if not artifact.shapes:
        return task.prepare(image, sample, card)  # type: ignore[no-any-return]
    height, width = (sample.box[3], sample.box[2]) if sample.box else image.shape[:2]
    shape = smallest_shape(artifact.shapes, task.needed((height, width), card), f"image {sample.image_id}")
    return task.prepare(image, sample, card, shape)  # type: ignore[no-any-return]


def changes(results: Sequence[Evaluation], seed: int = 0) -> list[dict[str, Any] | None]:
    """Each result's paired change against the first fp32 result of the same model and dataset; None for that one.

    A change maps a metric's name to value, low and high (95 %, bootstrap over images).
    """
    base = next((result for result in results if result.artifact.precision == "fp32"), None)
    return [
        None
        if base is None or result is base
        else discover.load("tasks", result.artifact.card.task).paired(
            base.predictions, result.predictions, result.dataset, seed=seed
        )
        for result in results
    ]


def has_truths(task: ModuleType, metrics: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether metrics were measured against truths: without any the first one is -1 or NaN."""
    return metrics[task.METRICS[0]]["value"] >= 0


def fidelity(base: Evaluation, predictions: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Agreement of predictions with those of `base` on the same samples."""
    task = discover.load("tasks", base.artifact.card.task)
    found = [task.agreement(a, b) for a, b in zip(base.predictions, predictions, strict=True)]
    return mean_agreement(task, found, [sample["image_id"] for sample in base.predictions], seed)


def mean_agreement(
    task: ModuleType, found: Sequence[Mapping[str, float]], images: Sequence[Hashable], seed: int = 0
) -> dict[str, Any]:
    """How near predictions are to others for the same samples: value, low and high (95 %, over `images`).

    `found` is the task's agreement of each sample. Each of its FIDELITY measures is the mean over samples where it has
    a meaning. `images` names the image of each sample.
    """
    number = {image: i for i, image in enumerate(dict.fromkeys(images))}
    places = [number[image] for image in images]
    values = np.array([[entry[name] for name in task.FIDELITY] for entry in found])
    sums, counts = np.zeros((2, len(number), len(task.FIDELITY)))
    np.add.at(sums, places, np.nan_to_num(values))
    np.add.at(counts, places, np.isfinite(values))
    drawn, present = np.split(bootstrap.means(np.hstack([sums, counts]), seed), 2, axis=1)
    resampled = np.divide(drawn, present, out=np.full_like(drawn, np.nan), where=present > 0)
    measures = {}
    for i, name in enumerate(task.FIDELITY):
        low, high = bootstrap.interval(resampled[:, i])
        value = sums[:, i].sum() / counts[:, i].sum() if counts[:, i].any() else float("nan")
        measures[name] = {"value": float(value), "low": low, "high": high}
    return measures


def origin(artifact: Artifact) -> dict[str, Any]:
    """What it takes to believe a result, or to get it again."""
    manifest = artifact.manifest
    return {
        "artifact_sha256": artifact.sha256,
        "graph_sha256": manifest["graph_sha256"],
        "checkpoint_sha256": manifest.get("checkpoint_sha256"),
        "plan_sha256": manifest.get("plan_sha256"),
        "made_with": manifest.get("versions"),
        "backend_version": artifact.version(),
        "host": host.describe(),
        "command": host.command(),
    }
