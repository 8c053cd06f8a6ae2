"""Top-down pose: what goes into the network and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sandglass.sources.card import Card, Input
from sandglass.tasks import topdown_pose
from sandglass.vision import affine, coco17, skeleton

CARD = Card("a", "topdown-pose", Input((64, 48), (0, 0, 0), (1, 1, 1)), model="hourglass")


def prediction(shift: float = 0.0, score: float = 0.9, joint_score: float = 0.9) -> dict[str, Any]:
    """A person in image 1 whose joints lie on a grid."""
    grid = np.stack([10 + shift + 5.0 * (np.arange(17) % 4), 10 + 5.0 * (np.arange(17) // 4)], axis=1)
    joints = np.column_stack([grid, np.full(17, joint_score)])
    return {"image_id": 1, "keypoints": joints.tolist(), "score": score, "area": 900.0}


def heatmaps(places: list[tuple[int, int]], value: float = 0.8) -> np.ndarray:
    """Heatmaps (1, 17, 16, 12) with a peak each, the places repeated in turn."""
    maps = np.zeros((1, 17, 16, 12), np.float32)
    for k in range(17):
        x, y = places[k % len(places)]
        maps[0, k, y, x] = value
    return maps


def test_bright_pixel_comes_back_to_its_place() -> None:
    """A spot in the image, prepared, taken for a heatmap and decoded, lies within a pixel of where it was."""
    image = np.zeros((120, 100, 3), np.uint8)
    image[40:43, 60:63] = 255
    sample = topdown_pose.Sample(0, 7, (30.0, 15.0, 45.0, 60.0), 0.5)
    array, meta = topdown_pose.prepare(image, sample, CARD)
    assert (array.shape, array.dtype) == ((3, 64, 48), np.float32)
    maps = np.repeat(array[None, :1] / 255, 17, axis=1)
    (found,) = topdown_pose.decode({"heatmaps": maps}, [meta], CARD)
    assert found["image_id"] == 7
    np.testing.assert_allclose(np.array(found["keypoints"])[:, :2], np.full((17, 2), [61, 41]), atol=1.2)


def test_score_of_a_person_counts_visible_joints_only() -> None:
    """The box's score times the mean of the joints' scores above 0.2; nothing visible scores 0."""
    meta = {
        "image_id": 1,
        "centre": np.array([50.0, 50]),
        "scale": np.array([30.0, 40]),
        "score": 0.5,
        "box": (0.0, 0.0, 1.0, 1.0),
    }
    maps = heatmaps([(5, 5)])
    maps[0, 3:] *= 0.1
    (found,) = topdown_pose.decode({"heatmaps": maps}, [meta], CARD)
    assert found["score"] == pytest.approx(0.5 * 0.8)
    assert found["area"] == pytest.approx(1200)
    (dark,) = topdown_pose.decode({"heatmaps": maps * 0.1}, [meta], CARD)
    assert dark["score"] == 0


@pytest.mark.parametrize(("shift", "expected"), [(False, 0), (True, 1)])
def test_flip_test_of_a_mirroring_network_agrees_with_itself(shift: bool, expected: int) -> None:
    """Where the mirrored image gives mirrored heatmaps the mean is the plain ones; the shift moves half by a pixel."""
    card = Card("a", "topdown-pose", CARD.input, model="hourglass", decode={"flip_shift": shift})
    plain = heatmaps([(3, 5), (7, 9), (4, 11)])
    both = np.concatenate([plain, plain[:, coco17.FLIP_PAIRS, :, ::-1]])
    merged = topdown_pose.merge_flipped({"heatmaps": both}, card)["heatmaps"]
    np.testing.assert_allclose(merged, (plain + np.roll(plain, expected, axis=3)) / 2)


@pytest.mark.parametrize("method", ["quarter", "dark", "udp"])
def test_a_keypoint_in_the_image_comes_back(method: str) -> None:
    """What a perfect network gives for a person is decoded to where the person is, by every method and its own warp."""
    card = Card("a", "topdown-pose", Input((256, 192), (0, 0, 0), (1, 1, 1)), "hourglass", decode={"method": method})
    image = np.zeros((300, 400, 3), np.uint8)
    image[139:144, 199:204] = 255  # a spot, its middle at 201, 141
    sample = topdown_pose.Sample(0, 1, (100.0, 50.0, 160.0, 200.0))
    array, meta = topdown_pose.prepare(image, sample, card)
    place = np.array([201.0, 141.0, 1.0])
    maps = topdown_pose.encode([{"keypoints": [place] * 17}], [meta], card)
    (found,) = topdown_pose.decode(maps, [meta], card)
    np.testing.assert_allclose(np.array(found["keypoints"])[:, :2], place[None, :2].repeat(17, 0), atol=1.5)
    rows, columns = np.nonzero(array[0] > 127)
    x, y = affine.to_input(place[None, None, :2], meta["centre"][None], meta["scale"][None], (256, 192))[0, 0]
    seen = [columns.mean(), rows.mean()]
    pixels = [x, y] if method != "udp" else [x * 191 / 192, y * 255 / 256]
    np.testing.assert_allclose(seen, pixels, atol=0.3)


def test_the_card_says_whether_mirrored_heatmaps_move() -> None:
    """With UDP they stay where they are, else they move by a pixel; the card's `flip_shift` overrules both."""
    plain = heatmaps([(3, 5)])
    both = np.concatenate([np.zeros_like(plain), plain[:, coco17.FLIP_PAIRS, :, ::-1]])
    for decode, moved in (({}, 1), ({"method": "udp"}, 0), ({"method": "udp", "flip_shift": True}, 1)):
        card = Card("a", "topdown-pose", CARD.input, model="hourglass", decode=decode)
        merged = topdown_pose.merge_flipped({"heatmaps": both}, card)["heatmaps"]
        np.testing.assert_array_equal(merged, np.roll(plain, moved, axis=3) / 2)


def test_flip_inputs_are_the_images_and_their_mirrors() -> None:
    """The second half of the batch is the first, mirrored left to right."""
    inputs = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    both = topdown_pose.flip_inputs(inputs)
    np.testing.assert_array_equal(both[:2], inputs)
    np.testing.assert_array_equal(both[2:, ..., ::-1], inputs)


def test_the_same_person_found_twice_counts_once() -> None:
    """Of two nearly equal people in an image the better one stays; one elsewhere stays too."""
    found = topdown_pose.to_coco([prediction(0.1, 0.5), prediction(0.0, 0.9), prediction(60.0, 0.4)])
    assert sorted(entry["score"] for entry in found) == [0.4, 0.9]


def test_drawing_marks_visible_joints_and_leaves_the_image_alone() -> None:
    """Skeletons are drawn into a copy, left and right in their colours; a joint below 0.2 leaves no mark."""
    image = np.zeros((80, 80, 3), np.uint8)
    picture = topdown_pose.draw(image, [prediction()])
    assert not image.any()
    assert tuple(picture[15, 15]) == skeleton.LEFT  # joint 5, the left shoulder
    assert tuple(picture[15, 20]) == skeleton.RIGHT  # joint 6, the right one
    assert not topdown_pose.draw(image, [prediction(joint_score=0.1)]).any()
