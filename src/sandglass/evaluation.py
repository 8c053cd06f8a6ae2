"""The only loop that sees both seams: a task's samples through a backend's session, to metrics.

Reading and preparing images, inference, and decoding overlap: images are read ahead by one thread and decoded by
another while the runtime works.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from sandglass import discover, host
from sandglass.artifact import Artifact
from sandglass.backends import Session
from sandglass.journal import Journal

READ_AHEAD = 8
T = TypeVar("T")
R = TypeVar("R")
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
    flip_test: bool = False,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    journal: Journal | None = None,
) -> Evaluation:
    """Run every sample of `dataset` through `artifact` and score the predictions by the task's metric.

    `flip_test` averages each output with that of the mirrored image. A run with the same artifact, dataset and
    protocol that was killed before goes on where it stopped; `journal` replaces the one in the user's cache.
    """
    task = discover.load("tasks", artifact.card.task)
    samples = task.samples(dataset)
    protocol = {**dataset.protocol, "flip_test": flip_test, "samples": len(samples)}
    if journal is None:
        journal = Journal({"artifact": artifact.sha256, "dataset": dataset.fingerprint, "protocol": protocol})
    resumed = len(journal.done)
    session = artifact.open(threads or host.threads())
    todo = [sample for sample in samples if sample.index not in journal.done]
    started = time.perf_counter()
    for done in infer(task, artifact, session, dataset, todo, batch, flip_test):
        journal.append(done)
        progress(len(journal.done), len(samples))
    seconds = time.perf_counter() - started
    predictions = [journal.done[sample.index] for sample in samples]
    metrics = task.score(predictions, dataset, seed=seed)
    journal.close()
    return Evaluation(artifact, dataset, metrics, protocol, origin(artifact), predictions, seconds, resumed)


def infer(
    task: ModuleType,
    artifact: Artifact,
    session: Session,
    dataset: Any,
    samples: Sequence[Any],
    batch: int = 1,
    flip_test: bool = False,
) -> Iterator[dict[int, dict[str, Any]]]:
    """Yield predictions by sample index, a batch at a time, in order."""
    card = artifact.card

    def prepare(group: list[Any]) -> list[tuple[Any, np.ndarray, Any]]:
        image = dataset.read(group[0].image_id)
        return [(sample, *task.prepare(image, sample, card)) for sample in group]

    def decode(part: list[tuple[Any, np.ndarray, Any]], outputs: dict[str, np.ndarray]) -> dict[int, dict[str, Any]]:
        if flip_test:
            outputs = task.merge_flipped(outputs, card)
        decoded = task.decode(outputs, [meta for _, _, meta in part], card)
        return {sample.index: prediction for (sample, _, _), prediction in zip(part, decoded, strict=True)}

    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image_id)]
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as decoder:
        waiting: deque[Future[dict[int, dict[str, Any]]]] = deque()
        prepared = (item for group in _ahead(reader, prepare, groups) for item in group)
        for part in _batches(prepared, batch):
            inputs = np.stack([array for _, array, _ in part])
            if flip_test:
                inputs = task.flip_inputs(inputs)
            waiting.append(decoder.submit(decode, part, session.run({artifact.input_name: inputs})))
            while waiting and (waiting[0].done() or len(waiting) > READ_AHEAD):
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


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


def origin(artifact: Artifact) -> dict[str, Any]:
    """What it takes to believe a result, or to get it again."""
    manifest = artifact.manifest
    return {
        "artifact_sha256": artifact.sha256,
        "graph_sha256": manifest["graph_sha256"],
        "checkpoint_sha256": manifest.get("checkpoint_sha256"),
        "plan_sha256": manifest.get("plan_sha256"),
        "made_with": manifest.get("versions"),
        "backend_version": discover.load("backends", artifact.backend).available(),
        "host": host.describe(),
        "command": host.command(),
    }


def _ahead(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map in order, with up to READ_AHEAD results waiting."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    part: list[T] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
