"""COCO metrics and their intervals."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sandglass.metrics import bootstrap, keypoints


def scene(seed: int, images: int = 8) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random people in images, some images empty, and results near them with some that are wrong."""
    random = np.random.default_rng(seed)
    truth: dict[str, Any] = {"images": [{"id": i, "width": 640, "height": 480} for i in range(images)],
                             "annotations": [], "categories": [{"id": 1, "name": "person"}]}  # fmt: skip
    results = []
    for image in range(1, images):
        for _ in range(random.integers(1, 4)):
            joints = random.uniform(0, 200, (17, 2)) + random.uniform(0, 200, 2)
            flags = random.integers(0, 3, 17)
            flags[0] = 2
            area = float(random.choice([40**2, 60**2, 150**2]))
            box = [*joints.min(0), *(joints.max(0) - joints.min(0))]
            truth["annotations"].append({
                "id": len(truth["annotations"]) + 1, "image_id": image, "category_id": 1, "iscrowd": 0, "area": area,
                "bbox": [float(v) for v in box], "num_keypoints": int((flags > 0).sum()),
                "keypoints": np.column_stack([joints, flags]).ravel().tolist(),
            })  # fmt: skip
            noise = random.choice([1.0, 4.0, 12.0, 60.0])
            moved = np.column_stack([joints + random.normal(0, noise, joints.shape), np.ones(17)])
            results.append({"image_id": image, "category_id": 1, "keypoints": moved.ravel().tolist(),
                            "score": float(random.random())})  # fmt: skip
    return truth, results


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """pycocotools' own ten numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {**truth, "info": {}}
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


@pytest.mark.parametrize("seed", range(8))
def test_values_equal_pycocotools(seed: int) -> None:
    """Our accumulation over images gives pycocotools' numbers to 1e-9."""
    truth, results = scene(seed)
    own = [metric["value"] for metric in keypoints.score(truth, results).values()]
    np.testing.assert_allclose(own, by_pycocotools(truth, results), atol=1e-9)


def test_weights_equal_images_drawn_again() -> None:
    """An image with weight 2 counts as one that is in the dataset twice, one with 0 as one that is not."""
    truth, results = scene(3)
    weights = np.array([1, 2, 0, 1, 1, 3, 0, 1])
    repeated: dict[str, Any] = {"images": [], "annotations": [], "categories": truth["categories"]}
    again = []
    for image, weight in enumerate(weights):
        for _ in range(weight):
            number = len(repeated["images"])
            repeated["images"].append({"id": number, "width": 640, "height": 480})
            for entry in truth["annotations"]:
                if entry["image_id"] == image:
                    repeated["annotations"].append(
                        {**entry, "id": len(repeated["annotations"]) + 1, "image_id": number}
                    )
            again += [{**entry, "image_id": number} for entry in results if entry["image_id"] == image]
    weighted = keypoints.accumulate(keypoints.match(truth, results), weights[None])
    np.testing.assert_allclose([v[0] for v in weighted.values()], by_pycocotools(repeated, again), atol=1e-9)


@pytest.mark.parametrize("number", [lambda i: i, lambda i: 7], ids=["from 0", "all equal"])
def test_ids_of_people_do_not_matter(number: Callable[[int], int]) -> None:
    """Ids that start at 0, or are all the same, give the metrics that ids from 1 give."""
    truth, results = scene(4)
    people = [{**entry, "id": number(i)} for i, entry in enumerate(truth["annotations"])]
    assert keypoints.score({**truth, "annotations": people}, results) == keypoints.score(truth, results)


def test_resamples_are_the_same_in_any_number_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Working through resamples one by one gives exactly what all at once give."""
    truth, results = scene(5)
    matches, weights = keypoints.match(truth, results), bootstrap.multiplicities(8, seed=0, resamples=50)
    together = keypoints.accumulate(matches, weights)
    monkeypatch.setattr(keypoints, "CELLS", 1)
    for name, alone in keypoints.accumulate(matches, weights).items():
        np.testing.assert_array_equal(alone, together[name])


def test_nothing_found_is_zero_and_no_truth_is_marked() -> None:
    """Without results every metric is 0; a size without people is -1, as COCO writes it."""
    truth, _ = scene(0)
    assert {m["value"] for m in keypoints.score(truth, []).values()} == {0.0}
    large = {**truth, "annotations": [{**entry, "area": 150.0**2} for entry in truth["annotations"]]}
    assert keypoints.score(large, [])["APM"]["value"] == -1


def test_change_of_nothing_is_exactly_nothing() -> None:
    """The paired change of results against themselves is 0 with an interval of no width."""
    truth, results = scene(1)
    for metric in keypoints.paired(truth, results, results).values():
        assert metric == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_paired_interval_is_narrower_than_unpaired() -> None:
    """A small change on the same images is told more exactly than the metric itself."""
    truth, results = scene(2, images=40)
    worse = [{**e, "keypoints": (np.array(e["keypoints"]) + 0.5).tolist()} for e in results]
    change, level = keypoints.paired(truth, results, worse)["AP"], keypoints.score(truth, results)["AP"]
    assert change["low"] <= change["value"] <= change["high"]
    assert change["high"] - change["low"] < (level["high"] - level["low"]) / 2


def test_resampling_is_deterministic_and_keeps_the_number_of_images() -> None:
    """The same seed draws the same images; every resample has as many as there are."""
    first = bootstrap.multiplicities(30, seed=5)
    np.testing.assert_array_equal(first, bootstrap.multiplicities(30, seed=5))
    assert (first.sum(axis=1) == 30).all()
    assert (first != bootstrap.multiplicities(30, seed=6)).any()
