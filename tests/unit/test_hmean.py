"""Recall, precision and hmean of text, and their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely

from sandglass.metrics import hmean
from sandglass.vision.polygon import AnnotatedText

Page = tuple[list[AnnotatedText], list[dict[str, Any]]]


def box(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """Corners of an upright box."""
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def text(points: list[list[float]], score: float) -> dict[str, Any]:
    """A detection."""
    return {"points": points, "score": score}


def page(seed: int) -> Page:
    """Crowded boxes, some ignored, and detections near them; scores fall on thresholds now and then."""
    random = np.random.default_rng(seed)
    texts: list[AnnotatedText] = []
    found = []
    for _ in range(random.integers(0, 12)):
        x, y, width, height = random.uniform(0, 120), random.uniform(0, 60), *random.uniform(10, 40, 2)
        texts.append((box(x, y, width, height), bool(random.random() < 0.3)))
        for _ in range(random.integers(0, 3)):
            dx, dy = random.normal(0, 4, 2)
            found.append(text(box(x + dx, y + dy, width, height), float(random.choice(np.linspace(0.1, 1, 19)))))
    random.shuffle(found)
    return texts, found


def plainly(pages: list[Page], threshold: float) -> tuple[float, float, float]:
    """Recall, precision and hmean at a threshold, by the rules, one polygon at a time."""
    right = wanted = claimed = 0
    for texts, found in pages:
        shapes = [shapely.Polygon(points) for points, ignored in texts if not ignored]
        ignored = [shapely.Polygon(points) for points, ignored in texts if ignored]
        seen = [shapely.Polygon(d["points"]) for d in found if d["score"] >= threshold]
        seen = [s for s in seen if not any(s.intersection(i).area / s.area > 0.5 for i in ignored)]
        taken: set[int] = set()
        for shape in shapes:
            for i, other in enumerate(seen):
                if i not in taken and shape.intersection(other).area / shape.union(other).area > 0.5:
                    taken.add(i)
                    break
        right, wanted, claimed = right + len(taken), wanted + len(shapes), claimed + len(seen)
    recall, precision = right / wanted, right / claimed if claimed else 0.0
    return recall, precision, 2 * recall * precision / (recall + precision) if right else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_the_rules_read_aloud(seed: int) -> None:
    """Every row of the sweep is what the rules give, and the best row is the result."""
    pages = [page(100 * seed + i) for i in range(12)]
    metrics = hmean.score([texts for texts, _ in pages], [found for _, found in pages])
    sweep = metrics["hmean"]["sweep"]
    assert [row[0] for row in sweep] == pytest.approx(np.arange(0.3, 0.96, 0.05))
    for threshold, value, recall, precision in sweep:
        assert (recall, precision, value) == pytest.approx(plainly(pages, threshold), abs=1e-6)
    best = max(sweep, key=lambda row: row[1])
    assert metrics["hmean"]["threshold"] == best[0]
    assert [metrics[name]["value"] for name in hmean.METRICS] == pytest.approx(best[1:], abs=1e-6)
    for entry in metrics.values():
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_half_an_overlap_is_not_enough() -> None:
    """An IoU of exactly 0.5 is no match; a little more is."""
    wanted = [[(box(0, 0, 20, 10), False)]]
    assert hmean.score(wanted, [[text(box(0, 0, 10, 10), 1.0)]])["hmean"]["value"] == 0
    assert hmean.score(wanted, [[text(box(0, 0, 10.1, 10), 1.0)]])["hmean"]["value"] == 1


def test_detections_in_ignored_regions_do_not_count() -> None:
    """Half of it inside is still counted as wrong; a little more and it is as if it were not there."""
    wanted = [[(box(0, 0, 20, 10), False), (box(100, 0, 50, 10), True)]]
    right = text(box(0, 0, 20, 10), 1.0)
    assert hmean.score(wanted, [[right, text(box(90, 0, 20, 10), 1.0)]])["precision"]["value"] == 0.5
    assert hmean.score(wanted, [[right, text(box(90.1, 0, 20, 10), 1.0)]])["precision"]["value"] == 1


def test_a_text_is_found_once() -> None:
    """Two detections of one text are one right and one wrong."""
    metrics = hmean.score(
        [[(box(0, 0, 20, 10), False)]], [[text(box(0, 0, 20, 10), 1.0), text(box(1, 0, 20, 10), 1.0)]]
    )
    assert (metrics["recall"]["value"], metrics["precision"]["value"]) == (1, 0.5)


def test_the_best_threshold_is_the_lowest_of_equal_ones() -> None:
    """A wrong detection of 0.55 makes every threshold up to it worse; right ones go at 0.9."""
    metrics = hmean.score(
        [[(box(0, 0, 20, 10), False)]], [[text(box(50, 50, 5, 5), 0.55), text(box(0, 0, 20, 10), 0.9)]]
    )
    assert metrics["hmean"]["threshold"] == 0.6
    assert metrics["hmean"]["value"] == 1


def test_crossed_detections_do_not_stop_the_scoring() -> None:
    """A detection that crosses itself or has no area is counted, and is wrong."""
    crossed = [[0, 0], [20, 10], [20, 0], [0, 10]]
    found = [[text(crossed, 1.0), text([[0, 0], [1, 1]], 1.0), text(box(0, 0, 20, 10), 1.0)]]
    assert hmean.score([[(box(0, 0, 20, 10), False)]], found)["precision"]["value"] == pytest.approx(1 / 3)


def test_without_texts_there_is_no_value() -> None:
    """-1 in every metric where all texts are ignored; without detections they are 0."""
    nothing = hmean.score([[(box(0, 0, 20, 10), True)], []], [[], []])
    assert [entry["value"] for entry in nothing.values()] == [-1, -1, -1]
    missed = hmean.score([[(box(0, 0, 20, 10), False)]], [[]])
    assert [entry["value"] for entry in missed.values()] == [0, 0, 0]


def test_change_is_the_difference_of_the_scores() -> None:
    """A paired change is that of the values, each at its own best threshold; equal detections have none at all."""
    pages = [page(i) for i in range(20)]
    truths, found = [texts for texts, _ in pages], [found for _, found in pages]
    fewer = [[text(d["points"], d["score"] / 2) for d in detections[1:]] for detections in found]
    change = hmean.paired(truths, found, fewer)
    before, after = hmean.score(truths, found), hmean.score(truths, fewer)
    for name in hmean.METRICS:
        assert change[name]["value"] == pytest.approx(after[name]["value"] - before[name]["value"])
        assert change[name]["low"] <= change[name]["value"] <= change[name]["high"]
        assert [hmean.paired(truths, found, found)[name][key] for key in ("value", "low", "high")] == [0, 0, 0]
    assert change["hmean"]["high"] < 0


def test_paired_interval_is_narrower_than_the_values_own() -> None:
    """Most of what varies from image to image is common to both sides."""
    pages = [page(i) for i in range(40)]
    truths, found = [texts for texts, _ in pages], [found for _, found in pages]
    nearly = [detections[:-1] if i % 10 == 0 else detections for i, detections in enumerate(found)]
    own, change = hmean.score(truths, found)["hmean"], hmean.paired(truths, found, nearly)["hmean"]
    assert change["high"] - change["low"] < 0.5 * (own["high"] - own["low"])
