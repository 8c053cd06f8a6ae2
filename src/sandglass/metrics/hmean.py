"""Recall, precision and their harmonic mean for text, by the overlap of polygons, with intervals.

The protocol is ICDAR's (2015, Challenge 4): a detection of which more than half lies in one ignored region does not
count; the others are matched, in order, to the first text that is free and shares an IoU above 0.5. As mmocr does, a
sweep over thresholds of the detections' scores finds the best one. Overlaps are computed once for the whole sweep, and
the counts of every image are stored, so that the bootstrap draws images without matching again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from sandglass.metrics import Change, Interval, Metric, bootstrap
from sandglass.vision import polygon
from sandglass.vision.polygon import AnnotatedText, DetectedText

METRICS = ("hmean", "recall", "precision")
THRESHOLDS = np.round(np.arange(0.3, 0.951, 0.05), 2)  # those of mmocr's configurations
IOU = 0.5
IGNORED = 0.5  # share of a detection


@dataclass(frozen=True)
class Matches:
    """Counts of each image: right and counted (images, thresholds) detections, and texts that count (images,)."""

    right: np.ndarray
    counted: np.ndarray
    truths: np.ndarray


def match(truths: Sequence[Sequence[AnnotatedText]], detections: Sequence[Sequence[DetectedText]]) -> Matches:
    """Match the detections of each image to its texts, at every threshold."""
    counts = [_match(texts, seen) for texts, seen in zip(truths, detections, strict=True)]
    right, counted, to_find = zip(*counts, strict=True)
    return Matches(np.array(right), np.array(counted), np.array(to_find))


def _match(texts: Sequence[AnnotatedText], detections: Sequence[DetectedText]) -> tuple[np.ndarray, np.ndarray, int]:
    """Of one image: right (thresholds,), counted (thresholds,), and the number of texts that count."""
    shapes = polygon.regions([points for points, _ in texts])
    ignored = np.array([flag for _, flag in texts], bool)
    scores = np.array([detection["score"] for detection in detections], float)
    seen = polygon.regions([detection["points"] for detection in detections])
    hidden = polygon.overlaps(seen, shapes[ignored]).max(axis=1, initial=0)
    counted = hidden <= IGNORED * shapely.area(seen)
    scores, seen = scores[counted], seen[counted]
    pairs = np.argwhere(polygon.similarities(shapes[~ignored], seen) > IOU)
    right = [_assigned(pairs[scores[pairs[:, 1]] >= threshold]) for threshold in THRESHOLDS]
    return np.array(right), (scores[:, None] >= THRESHOLDS).sum(axis=0), int((~ignored).sum())


def _assigned(pairs: np.ndarray) -> int:
    """How many of the pairs (text, detection), in order, join two that are both still free."""
    texts: set[int] = set()
    detections: set[int] = set()
    for text, detection in pairs.tolist():
        if text not in texts and detection not in detections:
            texts.add(text)
            detections.add(detection)
    return len(texts)


def accumulate(matches: Matches, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics for each row of image `weights` (rows, images), at each threshold: name to (rows, thresholds).

    NaN where no text counts.
    """
    right, counted = (weights @ counts.astype(float) for counts in (matches.right, matches.counted))
    truths = (weights @ matches.truths.astype(float))[:, None]
    recall = np.divide(right, truths, out=np.full_like(right, np.nan), where=truths > 0)
    precision = np.divide(right, counted, out=np.zeros_like(right), where=counted > 0) + 0 * recall
    total = recall + precision
    hmean = np.divide(2 * recall * precision, total, out=0 * total, where=total > 0)
    return dict(zip(METRICS, (hmean, recall, precision), strict=True))


def score(
    truths: Sequence[Sequence[AnnotatedText]], detections: Sequence[Sequence[DetectedText]], seed: int = 0
) -> dict[str, Metric]:
    """Each metric at the threshold of the best hmean, with the 95 % bootstrap interval over images at that threshold.

    The entry of hmean names its `threshold` and has the whole `sweep`, a row of threshold, hmean, recall and precision
    for each. -1 where no text counts.
    """
    matches = match(truths, detections)
    values, best = _whole(matches)
    resampled = accumulate(matches, bootstrap.multiplicities(len(truths), seed))
    metrics: dict[str, Metric] = {
        name: {**_entry(float(values[name][best]), resampled[name][:, best])} for name in METRICS
    }
    sweep = np.stack([THRESHOLDS, *(np.nan_to_num(values[name], nan=-1) for name in METRICS)], axis=1)
    metrics["hmean"]["threshold"] = float(THRESHOLDS[best])
    metrics["hmean"]["sweep"] = sweep.round(6).tolist()
    return metrics


def paired(
    truths: Sequence[Sequence[AnnotatedText]],
    before: Sequence[Sequence[DetectedText]],
    after: Sequence[Sequence[DetectedText]],
    seed: int = 0,
) -> dict[str, Change]:
    """Each metric's change from `before` to `after`, each at its own best threshold, from the same resampled images."""
    weights = bootstrap.multiplicities(len(truths), seed)
    sides = []
    for detections in (before, after):
        matches = match(truths, detections)
        values, best = _whole(matches)
        resampled = accumulate(matches, weights)
        sides.append({name: (values[name][best], resampled[name][:, best]) for name in METRICS})
    old, new = sides
    return {name: _entry(float(new[name][0] - old[name][0]), new[name][1] - old[name][1], 0.0) for name in METRICS}


def _whole(matches: Matches) -> tuple[dict[str, np.ndarray], int]:
    """The metrics (thresholds,) over all images, and the place of the best hmean: of equal ones the lowest."""
    values = {name: rows[0] for name, rows in accumulate(matches, np.ones((1, len(matches.truths)))).items()}
    return values, int(np.nan_to_num(values["hmean"]).argmax())


def _entry(value: float, resampled: np.ndarray, without_truth: float = -1.0) -> Interval:
    low, high = bootstrap.interval(resampled)
    if not np.isfinite(value):
        return {"value": without_truth, "low": without_truth, "high": without_truth}
    return {"value": value, "low": low, "high": high}
