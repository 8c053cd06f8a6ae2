"""Bottom-up pose: whole images into the network, people out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sandglass.core.errors import GraphError
from sandglass.sources.card import Card, Input
from sandglass.tasks import bottomup_pose
from sandglass.vision import coco17, skeleton

CARD = Card("a", "bottomup-pose", Input((256, 256), (0, 0, 0), (1, 1, 1)), model="hrnet-ae")


def person(x: float, y: float, score: float = 0.9, joint_score: float = 0.9) -> dict[str, Any]:
    """A person whose joints lie on a grid of 25 pixels from x, y on."""
    joints = np.column_stack([x + 25 * (np.arange(17) % 4), y + 25 * (np.arange(17) // 4), np.full(17, joint_score)])
    return {"keypoints": joints.tolist(), "score": score, "area": 7500.0}


def prediction(*people: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": 1, "people": list(people)}


def meta(width: int, height: int, size: tuple[int, int] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """The input and meta of a black image with a white spot in its middle."""
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = 255
    (sample,) = bottomup_pose.samples_in_image(image, [])
    return bottomup_pose.prepare(image, sample, CARD, size)


@pytest.mark.parametrize(
    ("width", "height", "size", "factor"),
    [
        (320, 240, None, 0.8),  # fits as a whole
        (320, 240, (256, 384), 256 / 240),  # the shape that mmpose gives it
        (320, 240, (320, 448), 256 / 240),  # a larger one changes nothing but the border
        (240, 320, (384, 256), 256 / 240),
        (1000, 100, (256, 512), 0.512),
    ],
)
def test_image_is_as_large_as_the_shape_allows_and_in_the_middle(
    width: int, height: int, size: tuple[int, int] | None, factor: float
) -> None:
    """The image covers the card's size where the shape has room for it; it keeps its aspect ratio and is centred."""
    array, found = meta(width, height, size)
    shape = size or (256, 256)
    assert array.shape == (3, *shape)
    np.testing.assert_allclose(np.array(shape[::-1]) / found["scale"], factor)
    rows, columns = np.nonzero(array[0] > 100)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((shape[0] / 2, shape[1] / 2), abs=0.7)


@pytest.mark.parametrize("size", [None, (256, 384), (320, 448)])
def test_people_come_back_in_pixels_of_the_image(size: tuple[int, int] | None) -> None:
    """What a perfect network gives for two people is decoded to where they are, whatever the input's shape."""
    _, found = meta(320, 240, size)
    truth = prediction(person(30, 60), person(200, 100))
    (result,) = bottomup_pose.decode(bottomup_pose.encode([truth], [found], CARD), [found], CARD)
    assert result["image_id"] == 0
    people = sorted(result["people"], key=lambda one: one["keypoints"][0][0])
    assert len(people) == 2
    for one, expected in zip(people, truth["people"], strict=True):
        np.testing.assert_allclose(one["keypoints"], expected["keypoints"], atol=2.6)
        assert one["score"] == pytest.approx(0.9, abs=0.05)
        assert one["area"] == pytest.approx(7500, rel=0.1)


def test_a_region_is_looked_at_enlarged() -> None:
    """A box fills the input, and what is found in it comes back in pixels of the whole image."""
    image = np.zeros((400, 600, 3), np.uint8)
    (sample,) = bottomup_pose.samples_in_image(image, [(100, 50, 200, 200)])
    _, found = bottomup_pose.prepare(image, sample, CARD)
    np.testing.assert_allclose(256 / found["scale"], 256 / 200)
    truth = prediction(person(120, 80))
    (result,) = bottomup_pose.decode(bottomup_pose.encode([truth], [found], CARD), [found], CARD)
    np.testing.assert_allclose(result["people"][0]["keypoints"], truth["people"][0]["keypoints"], atol=2.6)


def test_heatmaps_and_tags_may_be_two_outputs() -> None:
    """A graph with an output for each is decoded as one with both together; others are refused with their shapes."""
    _, found = meta(256, 256)
    maps = bottomup_pose.encode([prediction(person(30, 60))], [found], CARD)["heatmaps_and_tags"]
    together = bottomup_pose.decode({"maps": maps}, [found], CARD)
    assert bottomup_pose.decode({"h": maps[:, :17], "t": maps[:, 17:]}, [found], CARD) == together
    for outputs in ({"maps": maps[:, :17]}, {"h": maps[:, :17], "t": maps[:, 17:, ::2]}, {"x": maps[0]}):
        with pytest.raises(GraphError, match=r"expected 17 heatmaps and 17 tags"):
            bottomup_pose.decode(outputs, [found], CARD)


@pytest.mark.parametrize(("shift", "moved"), [(None, 0), (True, 1)])
def test_flip_test_averages_heatmaps_and_keeps_both_tags(shift: bool | None, moved: int) -> None:
    """A mirroring network gives the plain heatmaps again, its tags beside the mirror's, and the same people."""
    _, found = meta(256, 256)
    decode = {} if shift is None else {"flip_shift": shift}
    card = Card("a", "bottomup-pose", CARD.input, model="hrnet-ae", decode=decode)
    plain = bottomup_pose.encode([prediction(person(30, 60), person(140, 60))], [found], card)["heatmaps_and_tags"]
    heatmaps, tags = plain[:, :17], plain[:, 17:]
    mirrored = np.concatenate([part[:, coco17.FLIP_PAIRS, :, ::-1] for part in (heatmaps, tags + 1)], axis=1)
    merged = bottomup_pose.merge_flipped({"maps": np.concatenate([plain, mirrored])}, card)
    (maps,) = merged.values()
    assert maps.shape == (1, 51, 64, 64)
    right = np.s_[..., 1:]  # of the first column, which a shift leaves as it is
    expected = (heatmaps + np.roll(heatmaps, moved, axis=3)) / 2
    np.testing.assert_allclose(maps[:, :17][right], expected[right], atol=1e-6)
    np.testing.assert_array_equal(maps[:, 17:34], tags)
    np.testing.assert_array_equal(maps[:, 34:][right], np.roll(tags, moved, axis=3)[right] + 1)
    (result,) = bottomup_pose.decode(merged, [found], card)
    assert len(result["people"]) == 2


def test_agreement_is_one_for_the_same_people_and_falls_with_each_difference() -> None:
    """Order does not matter; a move, a person too few or too many lower it, each by the scores of whom it is about."""
    two = prediction(person(30, 60), person(140, 60, 0.5))
    agree = bottomup_pose.agreement
    assert agree(two, prediction(*two["people"][::-1])) == {"OKS": pytest.approx(1), "pixels": 0}
    moved = agree(two, prediction(person(33, 64), person(140, 60, 0.5)))
    assert 0.8 < moved["OKS"] < 0.99
    assert moved["pixels"] == pytest.approx(2.5)
    assert agree(two, prediction(person(30, 60)))["OKS"] == pytest.approx(1.8 / 2.3)
    assert agree(prediction(person(30, 60)), two)["OKS"] == pytest.approx(1.8 / 2.3)
    nobody = agree(two, prediction())
    assert nobody["OKS"] == 0
    assert np.isnan(nobody["pixels"])
    assert np.isnan(agree(prediction(), prediction())["OKS"])


def test_agreement_counts_the_joints_that_were_seen() -> None:
    """A joint that scores up to 0.2 may move without consequence."""
    before, after = person(30, 60), person(30, 60)
    before["keypoints"][3][2] = 0.1
    after["keypoints"][3][0] += 50
    assert bottomup_pose.agreement(prediction(before), prediction(after))["OKS"] == pytest.approx(1)


def test_results_hold_everybody() -> None:
    """People of one image who are alike are all reported, as mmpose does without suppression."""
    found = bottomup_pose.to_coco([prediction(person(30, 60), person(31, 60, 0.3)), prediction()])
    assert [entry["score"] for entry in found] == [0.9, 0.3]
    assert {len(entry["keypoints"]) for entry in found} == {51}


def test_drawing_leaves_out_whom_the_network_doubts() -> None:
    """A person below 0.2 leaves no mark, the other one's sides have their colours."""
    image = np.zeros((240, 320, 3), np.uint8)
    assert not bottomup_pose.draw(image, [prediction(person(30, 60, score=0.1))]).any()
    picture = bottomup_pose.draw(image, [prediction(person(30, 60), person(160, 60))])
    for x in (30, 160):
        assert tuple(picture[85, x + 25]) == skeleton.LEFT  # joint 5, the left shoulder
        assert tuple(picture[85, x + 50]) == skeleton.RIGHT
