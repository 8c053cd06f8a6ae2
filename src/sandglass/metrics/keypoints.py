"""COCO keypoint metrics, with what pycocotools matches and with intervals.

pycocotools is the definition of these metrics, so it does the matching; it also exposes the matches of every image,
which lets the bootstrap resample images without matching again. Accumulation over images is done here for one set of
image weights or many, and equals pycocotools' own.
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
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
CELLS = 1 << 20  # resamples times detections worked on at once


@dataclass(frozen=True)
class Matches:
    """Detections of one area range, best first: the image each is in, and per threshold whether it is right or wrong.

    image (D,) positions in the list of images; right, wrong (10, D) bool; truths (images,) people that count.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    truths: np.ndarray


def match(truth: CocoTruth, results: Sequence[CocoResult]) -> list[Matches]:
    """Match results in COCO's format to the truth, for each area range.

    People get new numbers: pycocotools takes the id 0 for "not matched" and loses all but one of equal ids. Images get
    new numbers in the order of their ids: pycocotools turns numbers into text where some ids are text.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        order = sorted((image["id"] for image in truth["images"]), key=id_order)
        place = {own: number for number, own in enumerate(order, 1)}
        images = [{**image, "id": place[image["id"]]} for image in truth["images"]]
        people = [{**_placed(entry, place), "id": number} for number, entry in enumerate(truth["annotations"], 1)]
        reference.dataset = {**truth, "images": images, "annotations": people, "info": {}}
        reference.createIndex()
        detections = reference.loadRes([_placed(result, place) for result in results]) if results else COCO()
        evaluation = COCOeval(reference, detections, "keypoints")
        evaluation.params.imgIds = list(place.values())
        evaluation.params.catIds = [1]
        evaluation.evaluate()
    count = len(evaluation.params.imgIds)
    return [_collect(evaluation.evalImgs[i * count : (i + 1) * count]) for i in range(len(AREAS))]


def _placed(entry: CocoPerson | CocoResult, place: Mapping[Id, int]) -> dict[str, object]:
    """An entry with the number of its image."""
    return {**entry, "image_id": place[entry["image_id"]]}


def _collect(images: Sequence[Mapping[str, np.ndarray] | None]) -> Matches:
    truths = np.array([0 if e is None else int((e["gtIgnore"] == 0).sum()) for e in images])
    present = [(i, e) for i, e in enumerate(images) if e is not None]
    place = np.concatenate([np.full(len(e["dtScores"]), i) for i, e in present] or [np.empty(0)]).astype(int)
    scores = np.concatenate([e["dtScores"] for _, e in present] or [np.empty(0)])
    matched = np.concatenate([e["dtMatches"] > 0 for _, e in present] or [np.empty((10, 0), bool)], axis=1).astype(bool)
    ignored = np.concatenate([e["dtIgnore"] > 0 for _, e in present] or [np.empty((10, 0), bool)], axis=1).astype(bool)
    order = np.argsort(-scores, kind="mergesort")
    return Matches(place[order], (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order], truths)


def accumulate(matches: Sequence[Matches], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The ten metrics for each row of image `weights` (rows, images): name to (rows,); NaN where there is no truth."""
    tables = [_precision_and_recall(part, weights) for part in matches]
    (precision, recall), (medium, recall_m), (large, recall_l) = tables
    values = (
        precision.mean(0), precision[0], precision[5], medium.mean(0), large.mean(0),
        recall.mean(0), recall[0], recall[5], recall_m.mean(0), recall_l.mean(0),
    )  # fmt: skip
    return dict(zip(METRICS, values, strict=True))


def _precision_and_recall(matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision over 101 recalls and final recall, both (10, rows); memory does not grow with the rows."""
    precision, recall = np.zeros((2, len(THRESHOLDS), len(weights)))
    step = max(1, CELLS // max(1, len(matches.image)))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        some = weights[rows].astype(np.int32)
        truths = (some @ matches.truths).astype(float)
        truths[truths == 0] = np.nan
        for t in range(len(THRESHOLDS)):
            precision[t, rows], recall[t, rows] = _curve(matches, t, some, truths)
    return precision, recall


def _curve(matches: Matches, t: int, weights: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and final recall (rows,) at threshold `t`; NaN in rows whose `truths` are NaN.

    Recall only rises, and precision only peaks, at right detections, so the curve is taken there alone.
    """
    counted = matches.right[t] | matches.wrong[t]
    places = np.flatnonzero(matches.right[t][counted])
    nothing = np.where(np.isnan(truths), np.nan, 0.0)
    if not places.size:
        return nothing, nothing.copy()
    each = weights[:, matches.image[counted]]
    right = np.cumsum(each[:, places], axis=1)
    detections = np.cumsum(each, axis=1)[:, places]
    reached = right / truths[:, None]
    envelope = np.maximum.accumulate((right / (detections + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    precision = nothing
    for row in np.flatnonzero(~np.isnan(truths)):
        first = np.searchsorted(reached[row], RECALLS, side="left")
        precision[row] = envelope[row, first[first < places.size]].sum() / len(RECALLS)
    return precision, reached[:, -1]


def score(truth: CocoTruth, results: Sequence[CocoResult], seed: int = 0) -> dict[str, Metric]:
    """Each metric's value with the 95 % bootstrap interval over images; -1 for a metric that has no truths."""
    matches = match(truth, results)
    values = accumulate(matches, np.ones((1, len(truth["images"])), int))
    resampled = accumulate(matches, bootstrap.multiplicities(len(truth["images"]), seed))
    return {name: {**_entry(float(values[name][0]), resampled[name])} for name in METRICS}


def paired(
    truth: CocoTruth, before: Sequence[CocoResult], after: Sequence[CocoResult], seed: int = 0
) -> dict[str, Change]:
    """Each metric's change from `before` to `after`, with its 95 % interval from the same resampled images."""
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
