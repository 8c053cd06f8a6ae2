"""Which inputs a calibration is made of."""

from __future__ import annotations

import numpy as np
import pytest

from sandglass import Calibration
from sandglass.calibration import calibration_inputs
from sandglass.card import Card, Input
from sandglass.datasets import synthetic_people, synthetic_shapes
from sandglass.graph.work import spread

NORMALIZATION = (120.0, 115.0, 100.0), (60.0, 58.0, 57.0)


def test_each_person_is_seen_wider_after_all() -> None:
    """With `wider` the people come first as they are, then with more around them: black beyond the image's edge."""
    card = Card("a", "topdown-pose", Input((64, 48), *NORMALIZATION), model="hourglass")
    calibration = Calibration(synthetic_people.load(limit=6, split="train"), size=4)
    plain, both = (calibration_inputs(card, calibration, wider=wider) for wider in (False, True))
    assert (len(plain), len(both)) == (4, 8)
    for i, (array, meta) in enumerate(plain):
        np.testing.assert_array_equal(array, both[i][0])
        larger, other = both[4 + i]
        assert larger.shape == array.shape
        np.testing.assert_allclose(other["scale"], 1.6 * meta["scale"], rtol=1e-5)
        np.testing.assert_allclose(other["centre"], meta["centre"], rtol=1e-5, atol=1e-3)
    black = (0 - np.array(NORMALIZATION[0])) / np.array(NORMALIZATION[1])
    assert any(np.allclose(array[0, :, 0, 0], black, atol=1e-5) for array, _ in both[4:])


def test_whole_images_have_nothing_around_them() -> None:
    """A task without `wider` is given its samples once."""
    card = Card("a", "classification", Input((64, 48), *NORMALIZATION), model="resnet")
    calibration = Calibration(synthetic_shapes.load(limit=6, split="train"), size=4)
    assert len(calibration_inputs(card, calibration, wider=True)) == 4


@pytest.mark.parametrize(("length", "count"), [(5, 12), (12, 12), (100, 12), (13, 12), (72, 1)])
def test_spread_takes_as_many_as_it_can_from_all_over(length: int, count: int) -> None:
    """Different items in their order, the first among them, with distances that differ by one at most."""
    found = spread(range(length), count)
    assert len(found) == min(length, count)
    distances = np.diff([*found, length])
    assert found[0] == 0
    assert distances.min() >= 1
    assert np.ptp(distances) <= 1
