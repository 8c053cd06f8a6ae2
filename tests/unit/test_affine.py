"""Boxes to regions and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.vision import affine

LENGTH = st.floats(1, 2000)
PLACE = st.floats(-500, 3000)


@given(box=st.tuples(PLACE, PLACE, LENGTH, LENGTH), size=st.sampled_from([(256, 192), (384, 384), (160, 128)]),
       points=st.lists(st.tuples(PLACE, PLACE), min_size=1, max_size=5))  # fmt: skip
def test_warp_and_back_is_the_identity(
    box: affine.Box, size: tuple[int, int], points: list[tuple[float, float]]
) -> None:
    """`to_image` undoes the plain warp for every box and point."""
    centre, scale = affine.centre_and_scale(box, size)
    matrix = affine.warp_matrix(centre, scale, size)
    inside = np.array(points) @ matrix[:, :2].T + matrix[:, 2]
    back = affine.to_image(inside[None], centre[None], scale[None], size)[0]
    np.testing.assert_allclose(back, points, atol=1e-6 * max(1.0, float(np.abs(points).max()), float(scale.max())))


@given(box=st.tuples(PLACE, PLACE, LENGTH, LENGTH))
def test_region_holds_the_padded_box_at_the_inputs_aspect(box: affine.Box) -> None:
    """The region has the aspect ratio of the input and is no smaller than the box times its padding."""
    centre, scale = affine.centre_and_scale(box, (256, 192), 1.25)
    assert scale[0] / scale[1] == pytest.approx(192 / 256)
    assert (scale >= np.array(box[2:]) * 1.25 * (1 - 1e-9)).all()
    np.testing.assert_allclose(centre, [box[0] + box[2] / 2, box[1] + box[3] / 2])


@given(image=st.tuples(st.integers(40, 4000), st.integers(40, 4000)), multiple=st.sampled_from([32, 64]))
def test_expanded_image_covers_the_size_and_fits_its_shape(image: tuple[int, int], multiple: int) -> None:
    """One side is the size's, none is smaller, the aspect ratio is kept, and the shape is the next multiple."""
    resized, shape = affine.expanded(image, (512, 320), multiple)
    assert (resized[0] == pytest.approx(512) and resized[1] >= 319.9) or resized[1] == pytest.approx(320)
    assert resized[0] / resized[1] == pytest.approx(image[0] / image[1])
    for side, whole in zip(resized, shape, strict=True):
        assert whole % multiple == 0
        assert side - 1e-5 <= whole < side + multiple


@given(box=st.tuples(PLACE, PLACE, LENGTH, LENGTH), shape=st.tuples(st.integers(2, 20), st.integers(2, 20)))
def test_letterbox_holds_the_box_and_never_enlarges_it_further_than_told(
    box: affine.Box, shape: tuple[int, int]
) -> None:
    """The whole box is in the region, both with the same middle; its scale is that of `expanded`, or the shape's."""
    pixels = (64 * shape[0], 64 * shape[1])
    centre, scale = affine.letterbox(box, pixels, (256, 256), 64)
    np.testing.assert_allclose(centre, [box[0] + box[2] / 2, box[1] + box[3] / 2])
    assert (scale >= np.array(box[2:]) * (1 - 1e-9)).all()
    factors = np.array(pixels[::-1]) / scale
    assert factors[0] == pytest.approx(factors[1])
    wanted = 256 / min(box[2:])
    fits = min(pixels[1] / box[2], pixels[0] / box[3])
    assert factors[0] == pytest.approx(min(wanted, fits))


def test_crop_takes_the_region() -> None:
    """A box that is the whole image without padding gives the image itself."""
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    centre, scale = affine.centre_and_scale((0, 0, 48, 64), (64, 48), 1.0)
    np.testing.assert_array_equal(affine.crop(image, affine.warp_matrix(centre, scale, (64, 48)), (64, 48)), image)
