"""Recall, precision and their harmonic mean for text detection, from the overlap of polygons, with intervals.

The protocol is that of ICDAR (2015, Challenge 4). A detection with more than half of its area in one ignored region
does not count. Each other detection is matched, in order, with the first text that has no match yet and an IoU above
0.5 with it. As in mmocr, the score threshold with the best harmonic mean is chosen. Overlaps are computed once for all
thresholds, and the counts of each image are stored, so that the bootstrap resamples images without matching again.
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
THRESHOLDS = np.round(np.arange(0.3, 0.951, 0.05), 2)  # score thresholds, those of mmocr's configurations
IOU = 0.5  # intersection over union above which a detection and a text match
IGNORED = 0.5  # share of a detection in an ignored region above which the detection does not count


@dataclass(frozen=True)
class Matches:
    """Counts of each image.

    right    matched detections at each threshold, (images, thresholds)
    counted  detections that are not in an ignored region, at each threshold, (images, thresholds)
    truths   texts that are not ignored, (images,)
    """

    right: np.ndarray
    counted: np.ndarray
    truths: np.ndarray


def match(truths: Sequence[Sequence[AnnotatedText]], detections: Sequence[Sequence[DetectedText]]) -> Matches:
    """Match the detections of each image with its texts, at each threshold."""
    counts = [_match(texts, detected) for texts, detected in zip(truths, detections, strict=True)]
    right, counted, truth_counts = zip(*counts, strict=True)
    return Matches(np.array(right), np.array(counted), np.array(truth_counts))


def _match(texts: Sequence[AnnotatedText], detections: Sequence[DetectedText]) -> tuple[np.ndarray, np.ndarray, int]:
    """The counts of one image: right (thresholds,), counted (thresholds,), and the number of texts that count."""
    shapes = polygon.regions([points for points, _ in texts])
    ignored = np.array([flag for _, flag in texts], bool)
    scores = np.array([detection["score"] for detection in detections], float)
    regions = polygon.regions([detection["points"] for detection in detections])
    ignored_area = polygon.overlaps(regions, shapes[ignored]).max(axis=1, initial=0)  # (detections,)
    counted = ignored_area <= IGNORED * shapely.area(regions)
    scores, regions = scores[counted], regions[counted]
    pairs = np.argwhere(polygon.similarities(shapes[~ignored], regions) > IOU)  # (pairs, 2): text, detection
    right = [_assigned(pairs[scores[pairs[:, 1]] >= threshold]) for threshold in THRESHOLDS]
    return np.array(right), (scores[:, None] >= THRESHOLDS).sum(axis=0), int((~ignored).sum())


def _assigned(pairs: np.ndarray) -> int:
    """The number of pairs (text, detection) that become matches, in order, if each text and detection has one match."""
    texts: set[int] = set()
    detections: set[int] = set()
    for text, detection in pairs.tolist():
        if text not in texts and detection not in detections:
            texts.add(text)
            detections.add(detection)
    return len(texts)


def accumulate(matches: Matches, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics for each row of image `weights` (rows, images): (rows, thresholds) float64 by name of the metric.

    NaN for rows without texts that count.
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
    """Each metric at the threshold of the best hmean, with its 95 % bootstrap interval over images at that threshold.

    The entry of hmean also has this `threshold` and the `sweep`: a row of threshold, hmean, recall and precision for
    each threshold. Values are -1 if no text counts.
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
    """The change of each metric from `before` to `after`, with its 95 % interval from the same resampled images.

    Each side is evaluated at its own best threshold.
    """
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
    """The metrics over all images, (thresholds,) by name, and the index of the best hmean (the first of equal ones)."""
    values = {name: rows[0] for name, rows in accumulate(matches, np.ones((1, len(matches.truths)))).items()}
    return values, int(np.nan_to_num(values["hmean"]).argmax())


def _entry(value: float, resampled: np.ndarray, without_truth: float = -1.0) -> Interval:
    low, high = bootstrap.interval(resampled)
    if not np.isfinite(value):
        return {"value": without_truth, "low": without_truth, "high": without_truth}
    return {"value": value, "low": low, "high": high}
