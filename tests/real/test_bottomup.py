"""Bottom-up pose on real images with what a perfect network would give for their annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandglass.datasets import coco_keypoints
from sandglass.sources.load_card import load_card
from sandglass.tasks import bottomup_pose
from sandglass.vision import affine

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("expand", [False, True], ids=["fixed", "expanded"])
def test_perfect_maps_give_nearly_perfect_people(real_data: Path, expand: bool) -> None:
    """Up to eleven people in images of all shapes come back, in one fixed input shape and in that of mmpose."""
    folder = real_data / "data/pose/coco-mini"
    dataset = coco_keypoints.load(folder / "train2017", folder / "annotations/person_keypoints_train2017.json", limit=8)
    card, predictions = load_card("hrnet-w32-ae-coco-512"), []
    for sample, truth in zip(bottomup_pose.samples(dataset), bottomup_pose.truths(dataset), strict=True):
        image = dataset.read(sample.image_id)
        shape = affine.expanded(image.shape[:2], card.input.size, bottomup_pose.MULTIPLE)[1] if expand else None
        _, meta = bottomup_pose.prepare(image, sample, card, shape)
        predictions += bottomup_pose.decode(bottomup_pose.encode([truth], [meta], card), [meta], card)
    metrics = bottomup_pose.score(predictions, dataset)
    assert metrics["AP"]["value"] > 0.93
    assert metrics["AR50"]["value"] > 0.99
