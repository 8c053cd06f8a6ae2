"""Classification: preprocessing by the card, top-k, accuracy with intervals, agreement, drawing."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sandglass.core.errors import CardError, DatasetError, GraphError, InputError
from sandglass.datasets import LabelledDataset, synthetic_shapes
from sandglass.sources.card import Card, Input
from sandglass.tasks import classification
from sandglass.tasks.classification import Sample

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def card(size: tuple[int, int] = (224, 224), channels: str = "rgb", **decode: Any) -> Card:
    return Card("a", "classification", Input(size, MEAN, STD, channels), model="resnet", decode=decode)


def dataset(labels: list[int]) -> LabelledDataset:
    names = {i: str(i) for i in range(len(labels))}
    return LabelledDataset("a", dict(enumerate(labels)), (), names, lambda i: np.zeros((4, 4, 3), np.uint8), {})


def predictions(classes: list[list[int]]) -> list[dict[str, Any]]:
    return [{"image_id": i, "classes": row, "scores": [0.5] * len(row)} for i, row in enumerate(classes)]


@pytest.fixture
def image() -> np.ndarray:
    """Noise of an awkward size."""
    return np.random.default_rng(0).integers(0, 256, (333, 500, 3), np.uint8)


def expected(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float64) - MEAN) / STD).transpose(2, 0, 1)


def test_short_side_and_centre_crop(image: np.ndarray) -> None:
    """As mmpretrain evaluates: the short side to 256 by Pillow, the middle 224x224, then mean and deviation."""
    array, _ = classification.prepare(image, Sample(0, 0), card(short_side=256, library="pillow"))
    resized = np.asarray(Image.fromarray(image).resize((384, 256), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(array, expected(resized[16:240, 80:304]), atol=1e-5)


def test_whole_image_is_squeezed(image: np.ndarray) -> None:
    """Without a short side the whole image is resized, whatever its proportions, by OpenCV's bilinear rule."""
    array, _ = classification.prepare(image, Sample(0, 0), card((227, 200)))
    np.testing.assert_allclose(array, expected(cv2.resize(image, (200, 227))), atol=1e-5)


def test_blue_first(image: np.ndarray) -> None:
    """A card with BGR normalizes the blue channel by the first mean."""
    array, _ = classification.prepare(image, Sample(0, 0), card((333, 500), "bgr"))
    np.testing.assert_allclose(array, expected(image[..., ::-1]), atol=1e-5)


def test_box_is_cut_out_first(image: np.ndarray) -> None:
    """A box is an image of its own, cut to the picture; one beside it is refused."""
    (sample,) = classification.samples_in_image(image, [(-10, 20, 110, 50)])
    array, _ = classification.prepare(image, sample, card((50, 100)))
    np.testing.assert_allclose(array, expected(image[20:70, :100]), atol=1e-5)
    with pytest.raises(InputError, match="the box 600,0,10,10 is outside the image, which is 500x333"):
        classification.samples_in_image(image, [(600, 0, 10, 10)])


def test_short_side_that_cannot_be_cropped_is_refused(image: np.ndarray) -> None:
    """A short side below the crop has no middle of that size; one that is not a number makes no card."""
    with pytest.raises(CardError, match=r"short_side is 200, expected at least the input's 224"):
        classification.prepare(image, Sample(0, 0), card(short_side=200))
    with pytest.raises(ValueError, match=r"short_side is '256', expected int"):
        card(short_side="256")


def test_decode_is_softmax_and_the_likeliest() -> None:
    """Scores are probabilities over all classes, in falling order, of the 20 likeliest of a thousand."""
    logits = np.random.default_rng(0).normal(0, 3, (2, 1000)).astype(np.float32)
    found = classification.decode({"a": logits}, [{"image_id": 7, "label": 999}, {"image_id": 8, "label": 0}], card())
    for prediction, row in zip(found, logits.astype(np.float64), strict=True):
        order = np.argsort(-row)[:20]
        assert prediction["classes"] == order.tolist()
        np.testing.assert_allclose(prediction["scores"], (np.exp(row) / np.exp(row).sum())[order], rtol=1e-5)
    assert [prediction["image_id"] for prediction in found] == [7, 8]
    assert "names" not in found[0]


def test_decode_takes_probabilities_and_names_as_the_card_says() -> None:
    """A graph that ends in softmax keeps its values; names come from a list or from a dataset that has them."""
    values = np.array([[0.1, 0.7, 0.2]], np.float32)
    meta = [{"image_id": 0, "label": None}]
    found = classification.decode({"a": values}, meta, card(probabilities=True, classes=["ant", "bee", "cow"]))
    assert found == [{"image_id": 0, "classes": [1, 2, 0], "scores": [0.7, 0.2, 0.1], "names": ["bee", "cow", "ant"]}]
    (plain,) = classification.decode({"a": values[..., None, None]}, meta, card(classes="cifar10"))
    assert plain["names"] == ["automobile", "bird", "airplane"]
    assert plain["scores"][0] < 0.5
    for classes in (3, [1], "coco-keypoints"):
        with pytest.raises(CardError, match="classes"):
            classification.decode({"a": values}, meta, card(classes=classes))


def test_outputs_of_another_task_are_refused() -> None:
    """Heatmaps, and two outputs, are named with their shapes."""
    for outputs in ({"a": np.zeros((1, 17, 4, 4))}, {"a": np.zeros((1, 3)), "b": np.zeros((1, 3))}):
        with pytest.raises(GraphError, match=r"the graph's outputs are a \[1, "):
            classification.decode(outputs, [{"image_id": 0, "label": 0}], card())


def test_label_that_the_network_lacks_is_named() -> None:
    """ImageNet's labels for a network of ten classes."""
    with pytest.raises(DatasetError, match="image 4 has the label 10, but the network has 10 classes"):
        classification.decode({"a": np.zeros((1, 10))}, [{"image_id": 4, "label": 10}], card())


def test_accuracy_counts_the_first_and_the_first_five() -> None:
    """Of four images one is right, two more are among five, one is not; order does not matter, intervals are sane."""
    truth = dataset([3, 1, 9, 7])
    found = predictions([[3, 1, 2, 4, 5, 6], [0, 1, 2, 3, 4], [0, 1, 2, 3, 9, 5], [0, 1, 2, 3, 4, 7]])
    for given in (found, found[::-1]):
        metrics = classification.score(given, truth)
        assert (metrics["top-1"]["value"], metrics["top-5"]["value"]) == (0.25, 0.75)
    many = dataset([0] * 1000)
    metrics = classification.score(predictions([[int(i % 10 == 0)] for i in range(1000)]), many)
    assert metrics["top-1"]["value"] == 0.9
    half = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert metrics["top-1"]["low"] == pytest.approx(0.9 - half, abs=0.003)
    assert metrics["top-1"]["high"] == pytest.approx(0.9 + half, abs=0.003)


def test_paired_change_sees_what_single_intervals_hide() -> None:
    """Ten of a thousand images turn wrong: the change is -1 point, its interval leaves out 0."""
    truth = dataset([0] * 1000)
    before = predictions([[int(i < 100)] for i in range(1000)])
    after = predictions([[int(i < 110)] for i in range(1000)])
    change = classification.paired(before, after, truth)["top-1"]
    assert change["value"] == pytest.approx(-0.01)
    assert -0.018 < change["low"] < -0.01 < change["high"] < -0.003


def test_agreement_is_the_class_and_the_logits() -> None:
    """A shift of all logits means nothing; a change of one by 1 among five is 1 / sqrt(5); a lost class counts most."""
    logits = np.array([[4.0, 3.0, 2.0, 1.0, 0.0, -9.0]])
    (first,) = classification.decode({"a": logits}, [{"image_id": 0, "label": None}], card())
    (shifted,) = classification.decode({"a": logits + 5}, [{"image_id": 0, "label": None}], card())
    assert classification.agreement(first, shifted) == {"same class": 1.0, "logit error": pytest.approx(0, abs=1e-5)}
    (other,) = classification.decode({"a": logits - np.eye(6)[4]}, [{"image_id": 0, "label": None}], card())
    assert classification.agreement(first, other)["logit error"] == pytest.approx(1 / np.sqrt(5), abs=0.02)
    (turned,) = classification.decode({"a": logits[:, ::-1]}, [{"image_id": 0, "label": None}], card())
    assert classification.agreement(first, turned)["same class"] == 0.0
    assert classification.agreement(first, turned)["logit error"] > 3


def test_small_images_are_enlarged_to_be_read() -> None:
    """A picture of 32x32 comes out sixfold with five lines in its corner; a large one keeps its size."""
    found = {"image_id": 0, "classes": [3, 1, 2, 4, 5], "scores": [0.9, 0.05, 0.03, 0.01, 0.01]}
    small = np.full((32, 32, 3), 200, np.uint8)
    picture = classification.draw(small, [found])
    assert picture.shape == (192, 192, 3)
    assert (picture[-20:] == 200).all()
    written = picture[(picture > 230).all(axis=2)]
    assert len(written) > 100
    large = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    assert classification.draw(large, [found]).shape == large.shape


def test_shapes_are_of_ten_kinds() -> None:
    """The embedded images of one class differ, those of a split are the same each time, and train is not test."""
    test = synthetic_shapes.load(limit=20)
    assert sorted(test.labels.values()) == sorted([*range(10), *range(10)])
    first, second = (i for i, label in test.labels.items() if label == 4)
    assert not np.array_equal(test.read(first), test.read(second))
    np.testing.assert_array_equal(test.read(first), synthetic_shapes.load(limit=20).read(first))
    assert not np.array_equal(test.read(first), synthetic_shapes.load(split="train").read(first))
    for options in ({"split": "val"}, {"images": "a"}):
        with pytest.raises(DatasetError, match="synthetic-shapes"):
            synthetic_shapes.load(**options)  # type: ignore[arg-type]
