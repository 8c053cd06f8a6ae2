"""The contract of tasks: each runs on embedded data, with the outputs of a perfect network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from sandglass.cli.conformance import members
from sandglass.core import discover
from sandglass.core.errors import DatasetError
from sandglass.datasets import Dataset, load_dataset
from sandglass.datasets._photos import load_photos
from sandglass.metrics import Interval
from sandglass.sources.card import Card, Input
from sandglass.tasks import Prediction, Sample, Task, View, check_dataset, load_task
from sandglass.vision.image import write_image

IMAGES = 8


@dataclass
class Case:
    """A task, its embedded data, the prepared inputs, and the outputs of a perfect network for them."""

    name: str
    task: Task
    card: Card
    dataset: Dataset
    samples: list[Sample]
    arrays: list[np.ndarray]
    views: list[View]
    truths: list[Prediction]
    outputs: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=members("tasks"))
def case(request: pytest.FixtureRequest) -> Case:
    """Each task."""
    task = load_task(request.param)
    card = Card(
        "a", request.param, Input((256, 192), (120, 115, 100), (60, 58, 57)), model=discover.own_names("models")[0]
    )
    dataset = load_dataset(task.DATASET, limit=IMAGES)
    samples, truths = task.samples(dataset), task.truths(dataset)
    prepared = [task.prepare(dataset.read(sample.image_id), sample, card) for sample in samples]
    arrays, views = [array for array, _ in prepared], [view for _, view in prepared]
    outputs = task.encode(truths, views, card)
    return Case(request.param, task, card, dataset, samples, arrays, views, truths, outputs)


def values(metrics: Mapping[str, Interval]) -> dict[str, float]:
    """The values of metrics, without those for which the data has no example."""
    return {name: entry["value"] for name, entry in metrics.items() if entry["value"] not in (None, -1)}


def test_samples_are_in_a_stable_order(case: Case) -> None:
    """Samples are numbered in order, the samples of an image follow each other, and a second call returns the same."""
    assert case.samples == case.task.samples(case.dataset)
    assert [sample.index for sample in case.samples] == list(range(len(case.samples)))
    images = [sample.image_id for sample in case.samples]
    changes = sum(a != b for a, b in pairwise(images))
    assert changes == len(set(images)) - 1
    assert set(images) <= set(case.dataset.image_ids)


def test_prepare_returns_inputs_of_the_network(case: Case) -> None:
    """Inputs are (3, H, W) float32 in the card's size; the image does not change; a second call returns the same."""
    image = case.dataset.read(case.samples[0].image_id)
    before = image.copy()
    array, _ = case.task.prepare(image, case.samples[0], case.card)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(array, case.arrays[0])
    for array in case.arrays:
        assert (array.shape, array.dtype) == ((3, *case.card.input.size), np.float32)
        assert np.isfinite(array).all()


def test_normalization_and_channels_are_the_cards(case: Case) -> None:
    """For an image of one colour, the centre of the input is (colour - mean) / std, in the card's order of channels."""
    image = np.zeros((120, 90, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    (sample,) = case.task.samples_in_image(image, [])
    colours: dict[Literal["rgb", "bgr"], tuple[int, int, int]] = {"rgb": (10, 20, 30), "bgr": (30, 20, 10)}
    for channels, colour in colours.items():
        card = Card("a", case.name, Input((64, 48), (1, 2, 3), (2, 4, 5), channels), model=case.card.model)
        array, _ = case.task.prepare(image, sample, card)
        np.testing.assert_allclose(array[:, 32, 24], (np.array(colour) - [1, 2, 3]) / [2, 4, 5], rtol=1e-6)


def test_a_batch_is_decoded_as_its_parts(case: Case) -> None:
    """Predictions do not depend on the rest of the batch and can be written as JSON; the outputs do not change."""
    before = {name: array.copy() for name, array in case.outputs.items()}
    together = case.task.decode(case.outputs, case.views, case.card)
    parts = [case.task.decode({name: array[i : i + 1] for name, array in case.outputs.items()}, [view], case.card)
             for i, view in enumerate(case.views)]  # fmt: skip
    assert [one for (one,) in parts] == together
    assert json.loads(json.dumps(together)) == together
    for name, array in before.items():
        np.testing.assert_array_equal(case.outputs[name], array)


def test_true_predictions_score_perfectly(case: Case) -> None:
    """The ground truth as predictions has 1 in every metric for which there is an example, within its interval."""
    assert len(case.truths) == len(case.samples)
    metrics = case.task.score(case.truths, case.dataset)
    assert tuple(metrics) == tuple(case.task.METRICS)
    found = values(metrics)
    assert case.task.METRICS[0] in found
    assert found == pytest.approx(dict.fromkeys(found, 1.0))
    for name in found:
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]


def test_decode_is_the_inverse_of_encode(case: Case) -> None:
    """Outputs of a perfect network decode to nearly perfect predictions, and these encode to about the same outputs."""
    found = case.task.decode(case.outputs, case.views, case.card)
    assert values(case.task.score(found, case.dataset))[case.task.METRICS[0]] > 0.9
    again = case.task.encode(found, case.views, case.card)
    for name, array in case.outputs.items():
        assert np.corrcoef(array.ravel(), again[name].ravel())[0, 1] > 0.95


def test_predictions_belong_to_their_samples(case: Case) -> None:
    """The same predictions in another order have a lower score: the order alone matches predictions and samples."""
    found = case.task.decode(case.outputs, case.views[::-1], case.card)
    first = case.task.METRICS[0]
    assert values(case.task.score(found, case.dataset))[first] < 0.5


def test_equal_predictions_have_no_change(case: Case) -> None:
    """The paired change between equal predictions is 0 with an interval of 0; from worse predictions it is above 0."""
    metrics = case.task.METRICS
    same = case.task.paired(case.truths, case.truths, case.dataset)
    assert tuple(same) == tuple(metrics)
    for name in values(same):
        assert [same[name][key] for key in ("value", "low", "high")] == [0, 0, 0]
    nothing = {name: np.zeros_like(array) for name, array in case.outputs.items()}
    worse = case.task.decode(nothing, case.views, case.card)
    assert case.task.paired(worse, case.truths, case.dataset)[metrics[0]]["value"] > 0.5


def test_score_repeats_for_a_seed(case: Case) -> None:
    """The same seed gives the same intervals."""
    found = case.task.decode(case.outputs, case.views, case.card)
    assert case.task.score(found, case.dataset, seed=3) == case.task.score(found, case.dataset, seed=3)


def test_mirrored_images_come_after_the_plain_ones(case: Case) -> None:
    """The first half of the inputs is unchanged, the second half is mirrored; merging gives one output for each image.

    The merged outputs may have more channels, and can still be decoded.
    """
    inputs = np.stack(case.arrays[:3])
    both = case.task.flip_inputs(inputs)
    np.testing.assert_array_equal(both[:3], inputs)
    np.testing.assert_array_equal(both[3:, ..., ::-1], inputs)
    doubled = {name: np.concatenate([array[:3], array[:3]]) for name, array in case.outputs.items()}
    merged = case.task.merge_flipped(doubled, case.card)
    assert {name: len(array) for name, array in merged.items()} == dict.fromkeys(case.outputs, 3)
    assert len(case.task.decode(merged, case.views[:3], case.card)) == 3


def test_drawing_leaves_the_image_alone(case: Case) -> None:
    """The picture has the image's shape, and differs from it if there are predictions; the image does not change."""
    sample = case.samples[0]
    image = case.dataset.read(sample.image_id)
    before = image.copy()
    picture = case.task.draw(image, [case.truths[0]])
    np.testing.assert_array_equal(image, before)
    assert (picture.shape, picture.dtype) == (image.shape, np.uint8)
    assert (picture != image).any()
    empty = case.task.draw(image, [])
    assert not np.shares_memory(empty, image)
    np.testing.assert_array_equal(empty, image)


def test_one_image_is_looked_at_whole_or_by_boxes(case: Case) -> None:
    """Without boxes an image is one sample; samples of one image have the id 0 and can be prepared."""
    image = case.dataset.read(case.samples[0].image_id)
    (whole,) = case.task.samples_in_image(image, [])
    for sample in (whole, *case.task.samples_in_image(image, [(10.0, 20.0, 60.0, 80.0)])):
        assert (sample.index, sample.image_id) == (0, 0)
        assert case.task.prepare(image, sample, case.card)[0].shape == (3, *case.card.input.size)


def test_a_wider_sample_is_another_look_at_the_same(case: Case) -> None:
    """If samples are parts of images, a wider sample is of the same image, has another input, and can be decoded."""
    variants = case.task.VARIANTS
    if variants is None:
        pytest.skip(f"samples of {case.name} are whole images")
    for sample, plain, truth in zip(case.samples, case.arrays, case.truths, strict=True):
        wider = variants.wider(sample)
        assert (wider.index, wider.image_id) == (sample.index, sample.image_id)
        array, view = case.task.prepare(case.dataset.read(sample.image_id), wider, case.card)
        assert array.shape == plain.shape
        assert not np.array_equal(array, plain)
        found = case.task.decode(case.task.encode([truth], [view], case.card), [view], case.card)
        assert case.task.agreement(truth, found[0])[case.task.FIDELITY[0]] > 0.8


def test_a_smaller_sample_is_the_same_in_fewer_pixels(case: Case) -> None:
    """If samples are parts of images, a smaller one keeps its place and its input shape, and shrinks only once."""
    variants = case.task.VARIANTS
    if variants is None:
        pytest.skip(f"samples of {case.name} are whole images")
    for sample, plain in zip(case.samples, case.arrays, strict=True):
        image = case.dataset.read(sample.image_id)
        small: Any  # a dataclass of the task
        shrunk, small = variants.smaller(image, sample)
        assert (small.index, small.image_id) == (sample.index, sample.image_id)
        assert shrunk.shape < image.shape
        across, down = shrunk.shape[1] / image.shape[1], shrunk.shape[0] / image.shape[0]
        assert sample.box is not None
        np.testing.assert_allclose(small.box, np.array(sample.box) * [across, down, across, down], rtol=1e-6)
        assert case.task.prepare(shrunk, small, case.card)[0].shape == plain.shape
        again, same = variants.smaller(shrunk, replace(small, box=tuple(0.9 * side for side in small.box)))
        assert again is shrunk
        assert same.box == pytest.approx(0.9 * np.array(small.box))


@pytest.mark.parametrize("larger", [0, 1, 2])
def test_an_input_may_follow_the_size_of_the_image(case: Case, larger: int) -> None:
    """If a task names the input shape that an image needs, this shape and larger ones give the same predictions."""
    shapes = case.task.SHAPES
    if shapes is None:
        pytest.skip(f"inputs of {case.name} have one size")
    step = shapes.multiple
    for sample, truth in zip(case.samples[:4], case.truths, strict=False):
        image = case.dataset.read(sample.image_id)
        shape = shapes.needed(image.shape[:2], case.card)
        assert shape[0] % step == shape[1] % step == 0
        shape = (shape[0] + larger * step, shape[1] + 2 * larger * step)
        array, view = shapes.prepare(image, sample, case.card, shape)
        assert (array.shape, array.dtype) == ((3, *shape), np.float32)
        found = case.task.decode(case.task.encode([truth], [view], case.card), [view], case.card)
        assert case.task.agreement(truth, found[0])[case.task.FIDELITY[0]] > 0.8


def test_results_in_cocos_format_are_json(case: Case) -> None:
    """If predictions have a form in COCO's result format, it is JSON and has the ids of the images."""
    if case.task.COCO_RESULTS is None:
        pytest.skip(f"COCO's result format has nothing for {case.name}")
    results = case.task.COCO_RESULTS(case.truths)
    assert json.loads(json.dumps(results)) == results
    assert {result["image_id"] for result in results} <= {sample.image_id for sample in case.samples}


def test_decoding_has_defaults_and_known_fields(case: Case) -> None:
    """Each field of `[decode]` has a type or a tuple of values; `flip_test` is a field."""
    assert case.task.DECODE["flip_test"] is bool
    assert all(isinstance(field, type) or (isinstance(field, tuple) and field) for field in case.task.DECODE.values())


def test_photos_without_truths_are_samples(case: Case, tmp_path: Path) -> None:
    """Each photo of a folder is a sample that can be prepared; without ground truth the metrics have no value."""
    for number in range(3):
        write_image(tmp_path / f"{number}.png", np.full((40 + number, 60, 3), 90, np.uint8))
    dataset = load_photos(case.task.READS, tmp_path)
    assert isinstance(dataset, case.task.READS)
    samples = case.task.samples(dataset)
    assert [sample.image_id for sample in samples] == dataset.image_ids
    assert json.loads(json.dumps(dataset.protocol)) == dataset.protocol
    views = [case.task.prepare(dataset.read(sample.image_id), sample, case.card)[1] for sample in samples]
    one = {name: array[:1] for name, array in case.outputs.items()}
    predictions = [case.task.decode(one, [view], case.card)[0] for view in views]
    assert not case.task.score(predictions, dataset)[case.task.METRICS[0]]["value"] >= 0
    assert len(dataset.fingerprint) == 64


def test_dataset_of_another_kind_is_refused(case: Case) -> None:
    """A dataset of another kind is an error that names both kinds."""
    for name in discover.own_names("tasks"):
        other = load_task(name)
        dataset = load_dataset(other.DATASET, limit=2)
        if other.READS is case.task.READS:
            check_dataset(case.task, dataset)
        else:
            with pytest.raises(DatasetError, match=case.task.READS.HOLDS):
                check_dataset(case.task, dataset)
