"""Which inputs a calibration is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sandglass import Calibration
from sandglass.core.errors import DatasetError
from sandglass.datasets import synthetic_people, synthetic_shapes
from sandglass.graph.work import spread
from sandglass.quantization.calibration import calibration_inputs, calibration_looks
from sandglass.sources.card import Card, Input
from sandglass.tasks.topdown_pose import SMALL

NORMALIZATION = (120.0, 115.0, 100.0), (60.0, 58.0, 57.0)


def test_each_person_is_seen_wider_and_smaller() -> None:
    """Ranges are read on the people as they are and with black around them; fidelity is kept in few pixels too."""
    card = Card("a", "topdown-pose", Input((64, 48), *NORMALIZATION), model="hourglass")
    calibration = Calibration(synthetic_people.load(limit=6, split="train"), size=4)
    plain, (read, more) = calibration_inputs(card, calibration), calibration_looks(card, calibration)
    assert (len(plain), len(read), len(more)) == (4, 8, 4)
    for (array, meta), (same, _), (larger, wider), (blurred, small) in zip(
        plain, read[:4], read[4:], more, strict=True
    ):
        np.testing.assert_array_equal(array, same)
        assert array.shape == larger.shape == blurred.shape == (1, 3, 64, 48)
        np.testing.assert_allclose(wider["scale"], 1.6 * meta["scale"], rtol=1e-5)
        np.testing.assert_allclose(wider["centre"], meta["centre"], rtol=1e-5, atol=1e-3)
        assert max(small["box"][2:]) == pytest.approx(SMALL, abs=1)
        assert np.abs(np.diff(blurred, axis=-1)).mean() < np.abs(np.diff(array, axis=-1)).mean()
    black = (0 - np.array(NORMALIZATION[0])) / np.array(NORMALIZATION[1])
    assert any(np.allclose(array[0, :, 0, 0], black, atol=1e-5) for array, _ in read[4:])


def test_whole_images_are_looked_at_once() -> None:
    """A task whose samples are whole images is given each as it is."""
    card = Card("a", "classification", Input((64, 48), *NORMALIZATION), model="resnet")
    calibration = Calibration(synthetic_shapes.load(limit=6, split="train"), size=4)
    assert [len(looks) for looks in calibration_looks(card, calibration)] == [4, 0]


def test_an_empty_set_is_refused() -> None:
    """Nothing is calibrated on no samples."""
    dataset = synthetic_people.load(limit=6, split="train")
    nobody = replace(dataset, coco={**dataset.coco, "annotations": []})
    card = Card("a", "topdown-pose", Input((64, 48), *NORMALIZATION), model="hourglass")
    with pytest.raises(DatasetError, match="calibration set is empty"):
        calibration_looks(card, Calibration(nobody))


@pytest.mark.parametrize(("length", "count"), [(5, 12), (12, 12), (100, 12), (13, 12), (72, 1)])
def test_spread_takes_as_many_as_it_can_from_all_over(length: int, count: int) -> None:
    """Different items in their order, the first among them, with distances that differ by one at most."""
    found = spread(range(length), count)
    assert len(found) == min(length, count)
    distances = np.diff([*found, length])
    assert found[0] == 0
    assert distances.min() >= 1
    assert np.ptp(distances) <= 1
