"""Resizing as the two libraries do it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from sandglass.core.errors import CardError
from sandglass.vision.resize import by_short_side, centre_crop, resize


@pytest.fixture
def image() -> np.ndarray:
    """Noise, in which every pixel counts."""
    return np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)


def test_each_library_is_itself(image: np.ndarray) -> None:
    """OpenCV and Pillow give what they give, for the whole image and for a view of it, and differ when it shrinks."""
    for given in (image, image[:, ::-1, ::-1]):
        found = {library: resize(given, (30, 41), library, "bilinear").astype(int) for library in ("opencv", "pillow")}
        np.testing.assert_array_equal(found["opencv"], cv2.resize(given, (41, 30), interpolation=cv2.INTER_LINEAR))
        expected = Image.fromarray(np.ascontiguousarray(given)).resize((41, 30), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found["pillow"], expected)
        assert np.abs(found["opencv"] - found["pillow"]).mean() > 10
    assert not np.array_equal(resize(image, (30, 41), "pillow", "bicubic"), found["pillow"])


def test_equal_size_is_the_same_image(image: np.ndarray) -> None:
    """Nothing is done where nothing is to be done."""
    for library in ("opencv", "pillow"):
        np.testing.assert_array_equal(resize(image, (75, 100), library, "bicubic"), image)


@pytest.mark.parametrize(
    ("library", "interpolation", "message"),
    [
        ("torch", "bilinear", "library is 'torch'"),
        ("pillow", "area", "interpolation is 'area', but pillow has nearest"),
    ],
)
def test_unknown_settings_are_named(image: np.ndarray, library: str, interpolation: str, message: str) -> None:
    """What a card may say is told with the error."""
    with pytest.raises(CardError, match=message):
        resize(image, (30, 40), library, interpolation)


def test_long_side_is_cut_to_whole_pixels() -> None:
    """The rule of mmpretrain's ResizeEdge and of torchvision's Resize."""
    assert by_short_side((375, 500), 256) == (256, 341)
    assert by_short_side((500, 333), 256) == (384, 256)
    assert by_short_side((100, 100), 256) == (256, 256)


def test_crop_is_the_middle() -> None:
    """Half a pixel is rounded to the even side: 256x341 to 224 starts at row 16 and column 58, 117 / 2 being 58.5."""
    places = np.stack(np.meshgrid(np.arange(256), np.arange(341), indexing="ij"), axis=2)
    cut = centre_crop(places, (224, 224))
    assert cut.shape == (224, 224, 2)
    assert cut[0, 0].tolist() == [16, 58]
    assert centre_crop(places[:, :343], (224, 222))[0, 0].tolist() == [16, 60]
