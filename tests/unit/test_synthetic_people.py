"""The drawn people: repeatable, coherent, and never the same in two splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.datasets import KeypointDataset, synthetic_people
from sandglass.vision import figures

COUNT = 40


@pytest.fixture(scope="module")
def people() -> KeypointDataset:
    """The first images of the test split."""
    return synthetic_people.load(limit=COUNT)


def _keypoints(dataset: KeypointDataset) -> np.ndarray:
    return np.array([entry["keypoints"] for entry in dataset.coco["annotations"]]).reshape(-1, 17, 3)


def _boxes(dataset: KeypointDataset) -> np.ndarray:
    return np.array([entry["bbox"] for entry in dataset.coco["annotations"]])


def test_reading_twice_gives_the_same_bytes(people: KeypointDataset) -> None:
    """An image does not depend on what was read before it, nor on what a caller did to an earlier copy."""
    first = people.read(3)
    expected = first.tobytes()
    first[:] = 0
    for other in range(10):
        people.read(other)
    synthetic_people.render.cache_clear()
    assert people.read(3).tobytes() == expected
    assert people.read(3).shape == (*synthetic_people.SIZE, 3)


def test_annotations_repeat_and_a_limit_is_a_prefix(people: KeypointDataset) -> None:
    """Loading again gives equal annotations; fewer images give the first of them."""
    synthetic_people.render.cache_clear()
    assert synthetic_people.load(limit=COUNT).coco == people.coco
    few = synthetic_people.load(limit=5).coco["annotations"]
    assert few == [entry for entry in people.coco["annotations"] if entry["image_id"] < 5]


def test_splits_and_seeds_share_no_image(people: KeypointDataset) -> None:
    """Images of the train split, the test split and another seed all differ."""
    sets = [people, synthetic_people.load(limit=COUNT, split="train"), synthetic_people.load(limit=COUNT, seed=1)]
    pictures = {dataset.read(index).tobytes() for dataset in sets for index in range(COUNT)}
    assert len(pictures) == len(sets) * COUNT


def test_shown_keypoints_are_inside_their_box(people: KeypointDataset) -> None:
    """A visible keypoint is in the box of its person's visible pixels, to a pixel; a hidden one is in the image."""
    keypoints, boxes = _keypoints(people), _boxes(people)
    places, flags = keypoints[..., :2], keypoints[..., 2]
    inside = (places >= boxes[:, None, :2] - 1) & (places <= boxes[:, None, :2] + boxes[:, None, 2:] + 1)
    assert inside.all(axis=-1)[flags == 2].all()
    height, width = synthetic_people.SIZE
    assert ((places[flags == 1] >= 0) & (places[flags == 1] <= [width, height])).all()
    assert not keypoints[flags == 0].any()


def test_flags_are_coherent(people: KeypointDataset) -> None:
    """All three flags occur, counts agree with them, and nobody is kept of whom next to nothing is seen."""
    flags = _keypoints(people)[..., 2].astype(int)
    assert set(flags.ravel()) == {0, 1, 2}
    assert [entry["num_keypoints"] for entry in people.coco["annotations"]] == (flags > 0).sum(1).tolist()
    assert ((flags == 2).sum(1) >= synthetic_people.MINIMUM_KEYPOINTS).all()


def test_boxes_and_areas_are_of_the_image(people: KeypointDataset) -> None:
    """Boxes lie in the image, areas are pixels of the silhouette and so less than the box; ids are unique."""
    boxes, annotations = _boxes(people), people.coco["annotations"]
    height, width = synthetic_people.SIZE
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [width, height]).all()
    areas = np.array([entry["area"] for entry in annotations])
    assert ((areas > 0.1 * boxes[:, 2] * boxes[:, 3]) & (areas < boxes[:, 2] * boxes[:, 3])).all()
    assert len({entry["id"] for entry in annotations}) == len(annotations)


def test_a_face_is_seen_from_the_front_only() -> None:
    """Nose and eyes are visible on figures that face the viewer and hidden on figures seen from behind."""
    random = np.random.default_rng(0)
    seen = [figures.random_figure(random, (100.0, 200.0), 150.0) for _ in range(200)]
    front = np.array([figures.face_shown(figure)[:3] for figure in seen if figure.facing > 0.9])
    back = np.array([figures.face_shown(figure)[:3] for figure in seen if figure.facing < -0.9])
    assert min(len(front), len(back)) > 20
    assert front.mean() > 0.95
    assert not back.any()


def test_left_is_left() -> None:
    """The left shoulder is on the viewer's right when a figure faces the viewer, on the viewer's left from behind."""
    random = np.random.default_rng(1)
    for _ in range(100):
        figure = figures.random_figure(random, (100.0, 200.0), 150.0)
        if abs(figure.facing) > 0.9:
            assert (figure.joints[5, 0] > figure.joints[6, 0]) == (figure.facing > 0)


def test_mistakes_are_named() -> None:
    """Files and unknown splits are refused with what would be right."""
    with pytest.raises(DatasetError, match="takes no files"):
        synthetic_people.load(images=Path("photos"))
    with pytest.raises(DatasetError, match="validation") as caught:
        synthetic_people.load(split="validation")
    assert "train, test" in caught.value.fix
