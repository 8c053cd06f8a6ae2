"""COCO keypoint metrics with intervals; pycocotools matches predictions with people.

pycocotools defines these metrics, so it does the matching. It also returns the matches of each image, so that the
bootstrap resamples images without matching again. The accumulation over images is done here, for one or many sets of
image weights, and gives the same results as pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sandglass.core.image_ids import Id, id_order
from sandglass.metrics import Change, Interval, Metric, bootstrap
from sandglass.vision.coco_format import CocoPerson, CocoResult, CocoTruth

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
AREAS = ("all", "medium", "large")
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the object keypoint similarity
RECALLS = np.linspace(0.0, 1.0, 101)
CELLS = 1 << 20  # resamples times detections that are processed at once: it bounds the memory


@dataclass(frozen=True)
class Matches:
    """The detections of one area range, the highest score first.

    image         (detections,) the position of the image in the list of images
    right, wrong  (thresholds, detections) bool; an ignored detection is neither
    truths        (images,) the number of people that count
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    truths: np.ndarray


def match(truth: CocoTruth, results: Sequence[CocoResult]) -> list[Matches]:
    """Match results in COCO's format with the truth, for each area range.

    People get new numbers, because pycocotools takes the id 0 for "not matched" and loses people with equal ids. Images
    get new numbers in the order of their ids, because pycocotools converts numbers to text if some ids are text.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        order = sorted((image["id"] for image in truth["images"]), key=id_order)
        numbers = {image_id: number for number, image_id in enumerate(order, 1)}
        images = [{**image, "id": numbers[image["id"]]} for image in truth["images"]]
        people = [{**_renumbered(entry, numbers), "id": number} for number, entry in enumerate(truth["annotations"], 1)]
        reference.dataset = {**truth, "images": images, "annotations": people, "info": {}}
        reference.createIndex()
        renumbered = [_renumbered(result, numbers) for result in results]
        detections = reference.loadRes(renumbered) if results else COCO()
        evaluation = COCOeval(reference, detections, "keypoints")
        evaluation.params.imgIds = list(numbers.values())
        evaluation.params.catIds = [1]
        evaluation.evaluate()
    count = len(evaluation.params.imgIds)
    return [_collect(evaluation.evalImgs[i * count : (i + 1) * count]) for i in range(len(AREAS))]


def _renumbered(entry: CocoPerson | CocoResult, numbers: Mapping[Id, int]) -> dict[str, object]:
    """An entry with the number of its image in place of the image's id."""
    return {**entry, "image_id": numbers[entry["image_id"]]}


def _collect(images: Sequence[Mapping[str, np.ndarray] | None]) -> Matches:
    truths = np.array([0 if e is None else int((e["gtIgnore"] == 0).sum()) for e in images])
    present = [(i, e) for i, e in enumerate(images) if e is not None]
    positions = np.concatenate([np.full(len(e["dtScores"]), i) for i, e in present] or [np.empty(0)]).astype(int)
    scores = np.concatenate([e["dtScores"] for _, e in present] or [np.empty(0)])
    matched = np.concatenate([e["dtMatches"] > 0 for _, e in present] or [np.empty((10, 0), bool)], axis=1).astype(bool)
    ignored = np.concatenate([e["dtIgnore"] > 0 for _, e in present] or [np.empty((10, 0), bool)], axis=1).astype(bool)
    order = np.argsort(-scores, kind="mergesort")  # stable, as in pycocotools
    return Matches(positions[order], (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order], truths)


def accumulate(matches: Sequence[Matches], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The ten metrics for each row of image `weights` (rows, images): (rows,) by name; NaN for rows without people."""
    tables = [_precision_and_recall(part, weights) for part in matches]
    (precision, recall), (medium, recall_m), (large, recall_l) = tables
    values = (
        precision.mean(0), precision[0], precision[5], medium.mean(0), large.mean(0),
        recall.mean(0), recall[0], recall[5], recall_m.mean(0), recall_l.mean(0),
    )  # fmt: skip
    return dict(zip(METRICS, values, strict=True))


def _precision_and_recall(matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision over 101 recalls, and final recall, both (thresholds, rows), in bounded memory."""
    precision, recall = np.zeros((2, len(THRESHOLDS), len(weights)))
    step = max(1, CELLS // max(1, len(matches.image)))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        part = weights[rows].astype(np.int32)
        truths = (part @ matches.truths).astype(float)
        truths[truths == 0] = np.nan
        for t in range(len(THRESHOLDS)):
            precision[t, rows], recall[t, rows] = _curve(matches, t, part, truths)
    return precision, recall


def _curve(matches: Matches, t: int, weights: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and final recall, (rows,), at threshold number `t`; NaN in rows whose `truths` are NaN.

    Recall rises only at right detections, and precision has its peaks there, so that these points of the curve suffice.
    """
    counted = matches.right[t] | matches.wrong[t]
    places = np.flatnonzero(matches.right[t][counted])
    nothing = np.where(np.isnan(truths), np.nan, 0.0)
    if not places.size:
        return nothing, nothing.copy()
    detection_weights = weights[:, matches.image[counted]]  # (rows, detections)
    right = np.cumsum(detection_weights[:, places], axis=1)  # (rows, right detections), as the three below
    detections = np.cumsum(detection_weights, axis=1)[:, places]
    recall = right / truths[:, None]
    envelope = np.maximum.accumulate((right / (detections + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    precision = nothing
    for row in np.flatnonzero(~np.isnan(truths)):
        first = np.searchsorted(recall[row], RECALLS, side="left")
        precision[row] = envelope[row, first[first < places.size]].sum() / len(RECALLS)
    return precision, recall[:, -1]


def score(truth: CocoTruth, results: Sequence[CocoResult], seed: int = 0) -> dict[str, Metric]:
    """The value of each metric with its 95 % bootstrap interval over images; -1 for a metric that has no people."""
    matches = match(truth, results)
    values = accumulate(matches, np.ones((1, len(truth["images"])), int))
    resampled = accumulate(matches, bootstrap.multiplicities(len(truth["images"]), seed))
    return {name: {**_entry(float(values[name][0]), resampled[name])} for name in METRICS}


def paired(
    truth: CocoTruth, before: Sequence[CocoResult], after: Sequence[CocoResult], seed: int = 0
) -> dict[str, Change]:
    """The change of each metric from `before` to `after`, with its 95 % interval from the same resampled images."""
    old, new = match(truth, before), match(truth, after)
    ones = np.ones((1, len(truth["images"])), int)
    weights = bootstrap.multiplicities(len(truth["images"]), seed)
    value_old, value_new = accumulate(old, ones), accumulate(new, ones)
    resampled_old, resampled_new = accumulate(old, weights), accumulate(new, weights)
    return {
        name: _entry(float(value_new[name][0] - value_old[name][0]), resampled_new[name] - resampled_old[name], 0.0)
        for name in METRICS
    }


def _entry(value: float, resampled: np.ndarray, without_truth: float = -1.0) -> Interval:
    low, high = bootstrap.interval(resampled)
    if not np.isfinite(value):
        return {"value": without_truth, "low": without_truth, "high": without_truth}
    return {"value": value, "low": low, "high": high}
