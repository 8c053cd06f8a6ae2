"""The drawn crowd: repeatable, of several people and shapes, and annotated as COCO annotates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.datasets import KeypointDataset, synthetic_crowd
from sandglass.vision import figures

COUNT = 60


@pytest.fixture(scope="module")
def crowd() -> KeypointDataset:
    """The first images of the test split."""
    return synthetic_crowd.load(limit=COUNT)


def test_scenes_have_several_people_and_shapes(crowd: KeypointDataset) -> None:
    """One to five people an image, more than two on average, in images of every shape."""
    people = np.bincount([entry["image_id"] for entry in crowd.coco["annotations"]], minlength=COUNT)
    assert people.max() == 5
    assert people.mean() > 2
    shapes = {(image["height"], image["width"]) for image in crowd.coco["images"]}
    assert shapes == set(synthetic_crowd.SIZES)
    for image in crowd.coco["images"][:8]:
        assert crowd.read(image["id"]).shape == (image["height"], image["width"], 3)


def test_reading_twice_gives_the_same_bytes(crowd: KeypointDataset) -> None:
    """An image follows from its number alone."""
    before = [crowd.read(index).tobytes() for index in range(5)]
    synthetic_crowd.render.cache_clear()
    assert [crowd.read(index).tobytes() for index in reversed(range(5))] == before[::-1]
    assert synthetic_crowd.load(limit=5, split="train").read(0).tobytes() not in before


def test_who_cannot_be_told_has_no_keypoints() -> None:
    """Whoever is annotated shows eight keypoints, or has none and is not asked for."""
    shown = []
    for index in range(150):
        for person in synthetic_crowd.render(index, "train", 0)[1]:
            flags = np.array(person["keypoints"][2::3])
            assert person["num_keypoints"] == (flags > 0).sum()
            shown.append(int((flags == 2).sum()))
    assert min(n for n in shown if n) >= synthetic_crowd.MINIMUM_KEYPOINTS
    assert 0 in shown
    assert figures.LABELS_A_PERSON * 5 < 255


def test_mistakes_are_named() -> None:
    """Files and unknown splits are refused with what would be right."""
    with pytest.raises(DatasetError, match="synthetic-crowd is drawn at run time"):
        synthetic_crowd.load(annotations=Path("a.json"))
    with pytest.raises(DatasetError, match="no split 'validation'"):
        synthetic_crowd.load(split="validation")
