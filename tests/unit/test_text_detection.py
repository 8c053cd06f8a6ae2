"""Text detection: pages to inputs, maps back to pages, and how near two predictions are."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from sandglass.card import Card, Input
from sandglass.errors import CardError, GraphError, InputError
from sandglass.tasks import text_detection as task

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def card(size: tuple[int, int] = (736, 1312), channels: str = "rgb", **decode: Any) -> Card:
    """A card whose input is the pixels themselves."""
    return Card("a", "text-detection", Input(size, *PLAIN, channels), model="hourglass", decode=decode)


def prediction(*boxes: tuple[float, float, float, float]) -> dict[str, Any]:
    """Texts in upright boxes x, y, w, h."""
    corners = [[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h in boxes]
    return {"image_id": 0, "texts": [{"points": points, "score": 0.9} for points in corners]}


@pytest.mark.parametrize(
    ("page", "size", "decode", "expected"),
    [
        ((720, 1280), (736, 1312), {}, (736, 1308)),  # mmocr: the short side is 736
        ((720, 1280), (736, 1312), {"round_to": 32}, (736, 1312)),  # PaddleOCR: multiples of 32
        ((480, 640), (736, 1312), {"round_to": 32}, (736, 992)),
        ((1000, 300), (736, 1312), {}, (736, 221)),
        ((720, 1280), (736, 1280), {}, (720, 1280)),
        ((736, 1400), (736, 1344), {"longest": 1333}, (701, 1333)),
        ((1, 5000), (64, 64), {}, (1, 64)),
        ((5000, 1), (64, 64), {"round_to": 32}, (64, 32)),
    ],
)
def test_pages_are_as_large_as_fits(
    page: tuple[int, int], size: tuple[int, int], decode: dict[str, Any], expected: tuple[int, int]
) -> None:
    """Sizes are those of the references where the input is large enough."""
    assert task.fit(page, size, card(**decode)) == expected


def test_the_rest_of_the_input_is_zero() -> None:
    """Pixels are OpenCV's bilinear ones, in the card's channel order; what is left is 0, also with another size."""
    image = np.random.default_rng(0).integers(1, 255, (90, 160, 3)).astype(np.uint8)
    (sample,) = task.samples_in_image(image, [])
    for size in (None, (120, 180)):
        array, meta = task.prepare(image, sample, card((100, 200), "bgr"), size)
        height, width = meta["content"]
        assert array.shape == (3, *(size or (100, 200)))
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)[..., ::-1].transpose(2, 0, 1)
        np.testing.assert_array_equal(array[:, :height, :width], expected)
        assert not array[:, height:].any()
        assert not array[:, :, width:].any()


def test_a_box_is_a_page_of_its_own() -> None:
    """Texts found in part of an image are where they are in the whole one, cut to its edge."""
    image = np.zeros((300, 400, 3), np.uint8)
    first, second = task.samples_in_image(image, [(200, 100, 100, 50), (350, -20, 500, 100)])
    assert second.box == (350, 0, 50, 80)
    small = card((100, 200))
    _, meta = task.prepare(image, first, small)
    wanted = prediction((220, 110, 60, 30))
    (found,) = task.decode(task.encode([wanted], [meta], small), [meta], small)
    assert task.agreement(wanted, found)["IoU"] > 0.9
    with pytest.raises(InputError, match="outside"):
        task.samples_in_image(image, [(400, 0, 10, 10)])


@pytest.mark.parametrize("reduced", [1, 4])
def test_maps_may_be_smaller_than_the_input(reduced: int) -> None:
    """Points follow from the size of the maps."""
    image = np.zeros((360, 640, 3), np.uint8)
    (sample,) = task.samples_in_image(image, [])
    wide = card((368, 672), decoder="panet")
    _, meta = task.prepare(image, sample, wide)
    wanted = prediction((100, 50, 200, 60), (320, 200, 200, 100))
    maps = task.encode([wanted], [meta], wide)["maps"][:, :, ::reduced, ::reduced]
    (found,) = task.decode({"maps": maps}, [meta], wide)
    assert task.agreement(wanted, found)["IoU"] > (0.95 if reduced == 1 else 0.85)


def test_settings_of_another_decoder_are_named() -> None:
    """They have no meaning for the one that the card names."""
    with pytest.raises(CardError, match="distance is unknown for dbnet"):
        task.decode({"maps": np.zeros((1, 1, 8, 8), np.float32)}, [], card(distance=2.0))


def test_outputs_of_another_network_are_refused() -> None:
    """The number of maps is the decoder's."""
    with pytest.raises(GraphError, match=r"heatmaps \[1, 17, 8, 8\].*\(1, 6, h, w\)"):
        task.decode({"heatmaps": np.zeros((1, 17, 8, 8), np.float32)}, [], card(decoder="panet"))


def test_flip_test_is_for_probabilities() -> None:
    """The mirrored probability comes back to its place; maps of vectors have no mean."""
    maps = np.random.default_rng(0).random((1, 1, 8, 12)).astype(np.float32)
    both = np.concatenate([maps, maps[..., ::-1]])
    np.testing.assert_allclose(task.merge_flipped({"maps": both}, card())["maps"], maps)
    with pytest.raises(InputError, match="flip"):
        task.merge_flipped({"maps": both}, card(decoder="panet"))


def test_agreement_counts_what_is_missing_on_both_sides() -> None:
    """1 for equal texts in any order, less for each that is displaced, missing or too many, NaN for none at all."""
    three = prediction((0, 0, 100, 20), (0, 50, 100, 20), (0, 100, 100, 20))
    assert task.agreement(three, prediction((0, 100, 100, 20), (0, 0, 100, 20), (0, 50, 100, 20))) == {
        "IoU": 1,
        "hmean": 1,
    }
    two = prediction((0, 0, 100, 20), (0, 50, 100, 20))
    assert task.agreement(three, two) == task.agreement(two, three) == pytest.approx({"IoU": 0.8, "hmean": 0.8})
    moved = task.agreement(two, prediction((10, 0, 100, 20), (0, 50, 100, 20)))
    assert moved == pytest.approx({"IoU": (90 / 110 + 1) / 2, "hmean": 1})
    assert task.agreement(two, prediction()) == {"IoU": 0, "hmean": 0}
    assert np.isnan(task.agreement(prediction(), prediction())["IoU"])


def test_a_text_agrees_with_one_only() -> None:
    """Two texts in place of one: the better one counts, the other is too many."""
    doubled = prediction((0, 0, 100, 20), (0, 0, 90, 20))
    assert task.agreement(prediction((0, 0, 100, 20)), doubled)["IoU"] == pytest.approx(2 / 3)
