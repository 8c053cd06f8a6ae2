"""Bottom-up human pose: the seventeen COCO keypoints of all people in an image.

Resizing, grouping and scores are those of mmpose 1.x's configuration of HRNet-W32 with associative embedding for
512x512 (BottomupResize with the mode "expand", AssociativeEmbedding, CocoMetric with the scores of groups and without
suppression).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import cv2
import numpy as np

from sandglass.core.errors import GraphError
from sandglass.core.image_ids import Id
from sandglass.core.json_values import JsonObject
from sandglass.core.sizes import Size
from sandglass.datasets import KeypointDataset
from sandglass.datasets.coco_keypoints import is_sample
from sandglass.metrics import Change, Metric, keypoints
from sandglass.sources.card import Card
from sandglass.tasks import DecodeField, Extent, Outputs, Prediction, Shapes, View
from sandglass.vision import affine, coco17, grouping, heatmap, skeleton
from sandglass.vision.coco_format import CocoResult
from sandglass.vision.image import normalize

METRICS = keypoints.METRICS
READS = KeypointDataset
DATASET = "synthetic-crowd"
DECODE: dict[str, DecodeField] = {"flip_shift": bool, "flip_test": bool}
PROTOCOL: JsonObject = {"boxes": "none, people are detected in whole images"}
FIDELITY = ("OKS", "pixels")
LEAST_FIDELITY = 0.985
MULTIPLE = 64  # sides of inputs are multiples of it
VISIBLE = 0.2  # score above which people and joints are drawn, and joints count for the agreement
AREA_OF_BOX = 0.53  # area of a person as a share of the box, the mean of COCO
KEYPOINTS = len(coco17.NAMES)
STRIDE = 4  # pixels of the input for one pixel of a heatmap
TAG_STEP = 2.0  # difference between the tags of two people in `encode`


@dataclass(frozen=True)
class Sample:
    """One image, or its region `box` (x, y, width, height) in pixels."""

    index: int
    image_id: Id
    box: affine.Box | None = None


class ImageView(View):
    """The position of an image in the input of `size` (height, width): see `affine.letterbox`."""

    centre: np.ndarray
    scale: np.ndarray
    size: Size


class Person(TypedDict):
    """A person: 17 keypoints [x, y, score] in pixels of the image, and the area of the box around them."""

    keypoints: list[list[float]]
    score: float
    area: float


class People(Prediction):
    """All people in an image."""

    people: list[Person]


def samples(dataset: KeypointDataset) -> list[Sample]:
    """One sample for each image, with or without people, as in mmpose. Detections are not needed."""
    return [Sample(index, image_id) for index, image_id in enumerate(dataset.image_ids)]


def samples_in_image(image: np.ndarray, boxes: Sequence[Sequence[float]]) -> list[Sample]:
    """The whole image, or its regions `boxes` (x, y, width, height)."""
    regions = [(box[0], box[1], box[2], box[3]) for box in boxes]
    return [Sample(index, 0, region) for index, region in enumerate(regions or [None])]


def needed(extent: Extent, card: Card) -> Size:
    """The input shape (height, width) that mmpose uses for an image of `extent`, in multiples of MULTIPLE."""
    return affine.expanded(extent, card.input.size, MULTIPLE)[1]


def prepare(image: np.ndarray, sample: Sample, card: Card, size: Size | None = None) -> tuple[np.ndarray, ImageView]:
    """The network's input, (3, H, W) float32, and the view with which `decode` maps keypoints back into the image.

    `size` is (H, W), by default that of the card. The image keeps its aspect ratio; it covers the card's size, as in
    mmpose, or is as large as `size` allows. The rest of the input is black.
    """
    shape = size or card.input.size
    whole = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    centre, scale = affine.letterbox(sample.box or whole, shape, card.input.size, MULTIPLE)
    pixels = affine.crop(image, affine.warp_matrix(centre, scale, shape), shape)
    if card.input.channels == "bgr":
        pixels = pixels[..., ::-1]
    array = normalize(pixels, card.input.mean, card.input.std)
    return array, {"image_id": sample.image_id, "centre": centre, "scale": scale, "size": shape}


def decode(outputs: Outputs, views: Sequence[ImageView], card: Card) -> list[People]:
    """Predictions from heatmaps and tags, (N, 34, h, w).

    Heatmaps and tags may be two outputs; with the tags of the mirrored image they have 51 channels. Raises GraphError
    for other outputs.
    """
    maps = _maps(outputs)
    return [
        {"image_id": view["image_id"], "people": _people(heatmaps, tags, view)}
        for heatmaps, tags, view in zip(maps[:, 0], maps[:, 1:], views, strict=True)
    ]


def _people(heatmaps: np.ndarray, tags: np.ndarray, view: ImageView) -> list[Person]:
    """The people in heatmaps (17, h, w) and tags (tags of a joint, 17, h, w) of one image.

    As in mmpose, both are enlarged to the size of the input before joints are grouped.
    """
    size = view["size"]
    people, scores = grouping.decode(_enlarged(heatmaps, size), _enlarged(tags, size))
    places = affine.to_image(people[..., :2].reshape(1, -1, 2), view["centre"][None], view["scale"][None], size)
    joints = np.concatenate([places.reshape(-1, KEYPOINTS, 2), people[..., 2:]], axis=2)
    areas = np.ptp(joints[..., :2], axis=1).prod(axis=1)
    return [
        {"keypoints": person.tolist(), "score": float(score), "area": float(area)}
        for person, score, area in zip(joints, scores, areas, strict=True)
    ]


def _enlarged(maps: np.ndarray, size: Size) -> np.ndarray:
    """Maps (..., h, w) resized to the size (H, W) of the input, linearly."""
    large = np.empty((*maps.shape[:-2], *size), np.float32)
    for source, target in zip(maps.reshape(-1, *maps.shape[-2:]), large.reshape(-1, *size), strict=True):
        cv2.resize(source, (size[1], size[0]), dst=target, interpolation=cv2.INTER_LINEAR)
    return large


def _maps(outputs: Outputs) -> np.ndarray:
    """Heatmaps, and then tags: (N, 1 + tags of a joint, 17, h, w)."""
    arrays = list(outputs.values())
    channels = sum(array.shape[1] for array in arrays if array.ndim == 4)
    together = all(array.ndim == 4 and array.shape[2:] == arrays[0].shape[2:] for array in arrays)
    if not together or channels not in (2 * KEYPOINTS, 3 * KEYPOINTS):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise GraphError(
            f"the graph's outputs are {shapes}, expected 17 heatmaps and 17 tags (1, 34, h, w)",
            "fix `task` in the card",
        )
    count, _, height, width = arrays[0].shape
    return np.concatenate(arrays, axis=1).reshape(count, -1, KEYPOINTS, height, width)


def encode(predictions: Sequence[People], views: Sequence[ImageView], card: Card) -> dict[str, np.ndarray]:
    """Heatmaps and tags with a quarter of the input's size that `decode` turns into these people.

    People get tags from left to right. Keypoints outside the input are lost, and so is one of two keypoints at the same
    position.
    """
    maps = [_encoded(prediction["people"], view) for prediction, view in zip(predictions, views, strict=True)]
    return {"heatmaps_and_tags": np.stack(maps)}


def _encoded(people: Sequence[Person], view: ImageView) -> np.ndarray:
    """The heatmaps and tags of one image, (34, h, w)."""
    size = view["size"]
    maps = np.zeros((2, KEYPOINTS, size[0] // STRIDE, size[1] // STRIDE), np.float32)
    if not people:
        return maps.reshape(2 * KEYPOINTS, *maps.shape[2:])
    joints = np.array([person["keypoints"] for person in people])
    weights = np.maximum(joints[..., 2], 1e-9)
    joints = joints[np.argsort((joints[..., 0] * weights).sum(axis=1) / weights.sum(axis=1))]
    places = affine.to_input(joints[..., :2].reshape(1, -1, 2), view["centre"][None], view["scale"][None], size)
    # A heatmap pixel stands for the center of the STRIDE x STRIDE pixels of the input that it covers.
    places = places.reshape(joints[..., :2].shape) - STRIDE / 2
    heatmaps = heatmap.encode(places, joints[..., 2], size, STRIDE)  # (people, 17, h, w)
    # The tag of a pixel is that of the person with the largest heatmap there, or else with any keypoint near it.
    nearness = heatmaps + 1e-3 * heatmaps.max(axis=1, keepdims=True)
    maps[0], maps[1] = heatmaps.max(axis=0), TAG_STEP * nearness.argmax(axis=0)
    return maps.reshape(2 * KEYPOINTS, *maps.shape[2:])


def truths(dataset: KeypointDataset) -> list[People]:
    """The annotated people as predictions, by image: labelled keypoints have the score 1, the others 0."""
    people: dict[Id, list[Person]] = {image_id: [] for image_id in dataset.image_ids}
    for entry in filter(is_sample, dataset.coco["annotations"]):
        joints = np.array(entry["keypoints"], np.float64).reshape(-1, 3)
        joints[:, 2] = joints[:, 2] > 0
        people[entry["image_id"]].append({"keypoints": joints.tolist(), "score": 1.0, "area": entry["area"]})
    return [{"image_id": image_id, "people": persons} for image_id, persons in people.items()]


def flip_inputs(inputs: np.ndarray) -> np.ndarray:
    """Inputs (N, 3, H, W) followed by their mirror images: (2N, 3, H, W)."""
    return np.concatenate([inputs, inputs[..., ::-1]])


def merge_flipped(outputs: Outputs, card: Card) -> dict[str, np.ndarray]:
    """The mean heatmaps of images and their mirror images, and the tags of both: (2N, 34, h, w) -> (N, 51, h, w).

    Mirrored maps are shifted by one pixel to the right if the card's `[decode]` has `flip_shift = true`.
    """
    plain, mirrored = np.split(_maps(outputs), 2)
    shift = card.decode.get("flip_shift", False)
    back = [heatmap.flip_back(mirrored[:, i], coco17.FLIP_PAIRS, shift) for i in (0, 1)]
    merged = np.concatenate([(plain[:, 0] + back[0]) / 2, plain[:, 1], back[1]], axis=1)
    return {"heatmaps_and_tags": merged}


def score(predictions: Sequence[People], dataset: KeypointDataset, seed: int = 0) -> dict[str, Metric]:
    """The ten COCO metrics with 95 % intervals, by name."""
    return keypoints.score(dataset.coco, to_coco(predictions), seed)


def paired(
    before: Sequence[People], after: Sequence[People], dataset: KeypointDataset, seed: int = 0
) -> dict[str, Change]:
    """The change of each metric from `before` to `after` on the same images, with its 95 % interval."""
    return keypoints.paired(dataset.coco, to_coco(before), to_coco(after), seed)


def agreement(before: People, after: People) -> dict[str, float]:
    """The agreement of two predictions for one image: OKS of people matched one to one, and their distance in pixels.

    OKS is a mean weighted by the scores of both people; a person without a match counts as 0 with its score. So 1 means
    the same people at the same positions. NaN if both predictions are empty; "pixels" is NaN if nobody is matched.
    """
    first, second = before["people"], after["people"]
    weights = [np.array([person["score"] for person in people]) for people in (first, second)]
    total = sum(part.sum() for part in weights)
    if not total:
        return {"OKS": float("nan"), "pixels": float("nan")}
    pairs = _pairs(first, second)
    shared = sum(oks * (weights[0][i] + weights[1][j]) for i, j, oks, _ in pairs)
    distances = [distance for *_, distance in pairs if np.isfinite(distance)]
    return {"OKS": float(shared / total), "pixels": float(np.mean(distances)) if distances else float("nan")}


def _pairs(first: Sequence[Person], second: Sequence[Person]) -> list[tuple[int, int, float, float]]:
    """People matched one to one, the most similar first: both indices, OKS, and mean distance in pixels."""
    if not first or not second:
        return []
    a, b = (np.array([person["keypoints"] for person in people]) for people in (first, second))
    squared = ((a[:, None, :, :2] - b[None, :, :, :2]) ** 2).sum(axis=-1)  # (first, second, joints)
    # Only visible joints of a person count, or all joints if none is visible: (first, 1, joints).
    counted = np.where((a[..., 2] > VISIBLE).any(axis=1, keepdims=True), a[..., 2] > VISIBLE, True)[:, None]
    areas = AREA_OF_BOX * np.maximum([person["area"] for person in first], 1.0)[:, None, None]
    similar = np.exp(-squared / (2 * areas * (2 * coco17.SIGMAS) ** 2))
    oks, distance = (np.where(counted, values, 0).sum(-1) / counted.sum(-1) for values in (similar, np.sqrt(squared)))
    pairs = []
    remaining = oks.copy()  # -1 for people who are matched
    for _ in range(min(remaining.shape)):
        i, j = np.unravel_index(remaining.argmax(), remaining.shape)
        pairs.append((int(i), int(j), float(oks[i, j]), float(distance[i, j])))
        remaining[i], remaining[:, j] = -1, -1
    return pairs


def to_coco(predictions: Sequence[People]) -> list[CocoResult]:
    """All people of the predictions in COCO's result format."""
    return [
        {
            "image_id": prediction["image_id"],
            "category_id": 1,
            "keypoints": [value for joint in person["keypoints"] for value in joint],
            "score": person["score"],
        }
        for prediction in predictions
        for person in prediction["people"]
    ]


def draw(image: np.ndarray, predictions: Sequence[People]) -> np.ndarray:
    """A copy of an image, (H, W, 3) uint8 RGB, with the skeletons of visible people: left orange, right blue."""
    picture = image.copy()
    for prediction in predictions:
        for person in prediction["people"]:
            if person["score"] > VISIBLE:
                skeleton.draw(picture, np.array(person["keypoints"]), person["area"], VISIBLE)
    return picture


VARIANTS = None
SHAPES = Shapes(MULTIPLE, needed, prepare)
COCO_RESULTS = to_coco
