"""Input shapes for real images: how much padding they cost, and that they change nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from sandglass import deployment
from sandglass.artifacts import input_shapes, shape_choice
from sandglass.datasets import coco_keypoints
from sandglass.measure.evaluation import evaluate
from sandglass.sources.load_card import load_card
from sandglass.tasks import bottomup_pose
from sandglass.vision import affine

pytestmark = pytest.mark.slow

CARD = load_card("hrnet-w32-ae-coco-512")
ALLOWED = 0.12


def content(sizes: list[tuple[int, int]]) -> float:
    """Pixels of the resized images alone, without what makes their sides multiples of 64."""
    found = (affine.expanded(size, CARD.input.size, bottomup_pose.MULTIPLE)[0] for size in sizes)
    return sum(height * width for height, width in found)


@pytest.mark.parametrize("source", ["coco-mini", "table"])
def test_thirty_six_shapes_waste_few_pixels(source: str, real_data: Path) -> None:
    """On the sizes of real images at most 12 % more than the images themselves; eight shapes do as well."""
    if source == "table":
        rows = json.loads((real_data / "fixtures/codecs/bottomup_size.json").read_text())
        sizes = [(row["image_wh"][1], row["image_wh"][0]) for row in rows]
        for size, row in zip(sizes, rows, strict=True):
            assert bottomup_pose.needed(size, CARD) == tuple(row["result"][1][::-1])
    else:
        folder = real_data / "data/pose/coco-mini/annotations/person_keypoints_train2017.json"
        sizes = [(image["height"], image["width"]) for image in json.loads(folder.read_text())["images"]]
    needed = Counter(bottomup_pose.needed(size, CARD) for size in sizes)
    for most in (36, 8):
        found = shape_choice.choose(needed, most)
        assert len(found) <= most
        used = sum(shape_choice.area(shape) * images for shape, images in found.items())
        assert used <= (1 + ALLOWED) * content(sizes)
    assert shape_choice.padding(shape_choice.choose(needed, 36), needed) == 0


def test_headers_give_the_sizes_of_the_annotations(real_data: Path) -> None:
    """The shapes that a folder of images gets are those of the sizes in its annotations."""
    folder = real_data / "data/pose/coco-mini"
    images = json.loads((folder / "annotations/person_keypoints_train2017.json").read_text())["images"]
    needed = Counter(bottomup_pose.needed((image["height"], image["width"]), CARD) for image in images)
    found, wasted = input_shapes.shapes_of_images(CARD, folder / "train2017", 36)
    assert (found, wasted) == (dict(needed), 0)


def test_real_images_run_in_their_own_shapes(real_data: Path, tmp_path: Path) -> None:
    """The embedded model on photographs: with shapes each gives what it gives in a graph of just its size."""
    pytest.importorskip("torch")
    folder, card = real_data / "data/pose/coco-mini", load_card("hrnet-ae-tiny-synthetic")
    annotations = folder / "annotations/person_keypoints_train2017.json"
    dataset = coco_keypoints.load(folder / "train2017", annotations, limit=6)
    found, _ = input_shapes.shapes_of_images(card, folder / "train2017", 36)
    (free,) = deployment.deploy(card, ["onnxruntime:fp32"], tmp_path / "free", shapes=found)
    assert free.artifact is not None, free.error
    predictions = {entry["image_id"]: entry for entry in evaluate(free.artifact, dataset).predictions}
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset.coco["images"]}
    used = {image: bottomup_pose.needed(size, card) for image, size in sizes.items()}
    assert len(set(used.values())) > 2
    for size in set(used.values()):
        fixed = replace(card, input=replace(card.input, size=size))
        (plain,) = deployment.deploy(fixed, ["onnxruntime:fp32"], tmp_path / input_shapes.text(size))
        assert plain.artifact is not None
        session = plain.artifact.open(1)
        for image in (image for image in used if used[image] == size):
            array, meta = bottomup_pose.prepare(dataset.read(image), bottomup_pose.Sample(0, image), card, size)
            (expected,) = bottomup_pose.decode(session.run({"input": array[None]}), [meta], card)
            people = predictions[image]["people"]
            assert len(people) == len(expected["people"])
            for one, other in zip(people, expected["people"], strict=True):
                np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=1e-2)
