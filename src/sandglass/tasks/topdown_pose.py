"""Top-down human pose: the seventeen COCO keypoints of the person in a box.

Boxes, warp, decoding and scores are those of mmpose 1.x (TopdownPoseEstimator with the MSRAHeatmap codec, plain or
unbiased, or the UDPHeatmap codec; CocoMetric).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from sandglass.core.errors import GraphError
from sandglass.core.image_ids import Id, id_order
from sandglass.core.json_values import JsonObject
from sandglass.datasets import KeypointDataset
from sandglass.datasets.coco_keypoints import clipped_box, has_area, is_sample
from sandglass.metrics import Change, Metric, keypoints
from sandglass.sources.card import Card
from sandglass.tasks import DecodeField, Outputs, Prediction, Variants, View
from sandglass.vision import affine, coco17, heatmap, skeleton
from sandglass.vision.affine import Box
from sandglass.vision.coco_format import CocoPerson, CocoResult
from sandglass.vision.image import normalize
from sandglass.vision.nms import oks_nms

METRICS = keypoints.METRICS
READS = KeypointDataset
DATASET = "synthetic-people"
VISIBLE = 0.2  # score of a joint above which it counts for the score of a person and is drawn
PADDING = 1.25  # size of the region in the input, as a multiple of the box
DECODE: dict[str, DecodeField] = {
    "padding": float,
    "method": heatmap.METHODS,
    "blur": heatmap.BLURS,
    "flip_shift": bool,
    "flip_test": bool,
}
PROTOCOL: JsonObject = {}
FIDELITY = ("OKS", "pixels")
LEAST_FIDELITY = 0.985
AREA_OF_BOX = 0.53  # area of a person as a share of the box, the mean of COCO
WIDER = 1.6  # size of the box in `wider`, as a multiple of the original one
SMALL = 32.0  # longer side of a person in `smaller`, in pixels


@dataclass(frozen=True)
class Sample:
    """One person: the box (x, y, width, height) in pixels of the image `image_id`, and the score of the box."""

    index: int
    image_id: Id
    box: Box
    score: float = 1.0


class PersonView(View):
    """The region of an image that is the input (see `affine.centre_and_scale`), and the box and score of the sample."""

    centre: np.ndarray
    scale: np.ndarray
    score: float
    box: Box


class Person(Prediction):
    """A person: 17 keypoints [x, y, score] in pixels of the image, and the area of the region in the input."""

    box: list[float]
    keypoints: list[list[float]]
    score: float
    area: float


def samples(dataset: KeypointDataset) -> list[Sample]:
    """The people of a dataset by image: its detections, or the annotated people with keypoints that are not a crowd."""
    if dataset.detections is None:
        people = [(entry["image_id"], box, 1.0) for entry, box in _people(dataset)]
    else:
        people = [
            (entry["image_id"], _box(entry["bbox"]), float(entry["score"]))
            for entry in sorted(dataset.detections, key=lambda entry: id_order(entry["image_id"]))
            if has_area(entry["bbox"])
        ]
    return [Sample(index, *person) for index, person in enumerate(people)]


def _box(values: Sequence[float]) -> Box:
    return values[0], values[1], values[2], values[3]


def _people(dataset: KeypointDataset) -> list[tuple[CocoPerson, Box]]:
    """The annotated people who are samples, by image, with their boxes clipped to the image."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in dataset.coco["images"]}
    people = [
        (entry, clipped_box(entry["bbox"], *sizes[entry["image_id"]]))
        for entry in dataset.coco["annotations"]
        if is_sample(entry)
    ]
    return sorted((p for p in people if has_area(p[1])), key=lambda p: id_order(p[0]["image_id"]))


def samples_in_image(image: np.ndarray, boxes: Sequence[Sequence[float]]) -> list[Sample]:
    """The people of one image in `boxes` (x, y, width, height); without boxes the whole image is one person."""
    height, width = image.shape[:2]
    chosen = boxes or [(0.0, 0.0, float(width), float(height))]
    return [Sample(index, 0, _box(box)) for index, box in enumerate(chosen)]


def wider(sample: Sample) -> Sample:
    """The sample with a box that is WIDER times as wide and high, around the same center.

    The regions of people at the edge of an image extend beyond it and are black there. At such borders the activations
    of a network can be many times as large as elsewhere, and few people in a calibration set have them.
    """
    left, top, width, height = sample.box
    wide_box = (left - (WIDER - 1) / 2 * width, top - (WIDER - 1) / 2 * height, WIDER * width, WIDER * height)
    return replace(sample, box=wide_box)


def smaller(image: np.ndarray, sample: Sample) -> tuple[np.ndarray, Sample]:
    """The image shrunk so that the longer side of the sample's box has SMALL pixels, and the sample in this image.

    A smaller box is not changed. For people who are far away, few pixels are enlarged to the whole input. It has no
    details then, so that rounding errors are the same over whole areas and have a larger effect.
    """
    longest = max(sample.box[2:])
    if longest <= SMALL:
        return image, sample
    height, width = image.shape[:2]
    size = max(1, round(width * SMALL / longest)), max(1, round(height * SMALL / longest))
    across, down = size[0] / width, size[1] / height
    left, top, wide, high = sample.box
    box = (left * across, top * down, wide * across, high * down)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), replace(sample, box=box)


def prepare(image: np.ndarray, sample: Sample, card: Card) -> tuple[np.ndarray, PersonView]:
    """The network's input, (3, H, W) float32, and the view with which `decode` maps keypoints back into the image."""
    size = card.input.size
    centre, scale = affine.centre_and_scale(sample.box, size, card.decode.get("padding", PADDING))
    pixels = affine.crop(image, affine.warp_matrix(centre, scale, size, unbiased=_method(card) == "udp"), size)
    if card.input.channels == "bgr":
        pixels = pixels[..., ::-1]
    array = normalize(pixels, card.input.mean, card.input.std)
    return array, {
        "image_id": sample.image_id,
        "centre": centre,
        "scale": scale,
        "score": sample.score,
        "box": sample.box,
    }


def decode(outputs: Outputs, views: Sequence[PersonView], card: Card) -> list[Person]:
    """Predictions from heatmaps (N, 17, h, w).

    The score of a person is the score of the box times the mean score of the visible joints. The area is that of the
    region in the input. Raises GraphError for outputs of other shapes.
    """
    heatmaps = _heatmaps(outputs)
    blur = card.decode.get("blur", heatmap.BLURS[0])
    places, scores = heatmap.decode(heatmaps, card.input.size, _method(card), blur)
    centres, scales = _regions(views)
    positions = affine.to_image(places, centres, scales, card.input.size)  # (N, 17, 2)
    visible = scores > VISIBLE
    mean = np.where(visible, scores, 0).sum(1) / np.maximum(visible.sum(1), 1)  # (N,)
    joined = np.concatenate([positions, scores[..., None]], axis=2)  # (N, 17, 3)
    return [
        {
            "image_id": view["image_id"],
            "box": list(view["box"]),
            "keypoints": joined[i].tolist(),
            "score": float(view["score"] * mean[i]),
            "area": float(scales[i].prod()),
        }
        for i, view in enumerate(views)
    ]


def _regions(views: Sequence[PersonView]) -> tuple[np.ndarray, np.ndarray]:
    """Centres and scales, both (N, 2)."""
    return np.stack([view["centre"] for view in views]), np.stack([view["scale"] for view in views])


def _method(card: Card) -> str:
    method: str = card.decode.get("method", heatmap.METHODS[0])
    return method


def _heatmaps(outputs: Outputs) -> np.ndarray:
    shapes = {name: array.shape for name, array in outputs.items()}
    if len(shapes) != 1 or [(len(shape), shape[1:2]) for shape in shapes.values()] != [(4, (len(coco17.NAMES),))]:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise GraphError(
            f"the graph's outputs are {listed}, expected 17 heatmaps (1, 17, h, w)", "fix `task` in the card"
        )
    return next(iter(outputs.values()))


def encode(predictions: Sequence[Person], views: Sequence[PersonView], card: Card) -> dict[str, np.ndarray]:
    """Heatmaps with a quarter of the input's size that `decode` turns into these people, up to a quarter of a pixel.

    A keypoint outside the region of the input is lost.
    """
    joints = np.array([prediction["keypoints"] for prediction in predictions], np.float64)
    centres, scales = _regions(views)
    places = affine.to_input(joints[..., :2], centres, scales, card.input.size)
    return {"heatmaps": heatmap.encode(places, joints[..., 2], card.input.size, method=_method(card))}


def truths(dataset: KeypointDataset) -> list[Person]:
    """The annotated people as predictions, one for each sample: labelled keypoints have the score 1, the others 0."""
    people: list[Person] = []
    for entry, _ in _people(dataset):
        joints = np.array(entry["keypoints"], np.float64).reshape(-1, 3)
        joints[:, 2] = joints[:, 2] > 0
        people.append(
            {
                "image_id": entry["image_id"],
                "keypoints": joints.tolist(),
                "score": 1.0,
                "area": entry["area"],
                "box": list(entry["bbox"]),
            }
        )
    return people


def flip_inputs(inputs: np.ndarray) -> np.ndarray:
    """Inputs (N, 3, H, W) followed by their mirror images: (2N, 3, H, W)."""
    return np.concatenate([inputs, inputs[..., ::-1]])


def merge_flipped(outputs: Outputs, card: Card) -> dict[str, np.ndarray]:
    """The mean of the heatmaps of images and of their mirror images, (2N, ...) -> (N, ...).

    Mirrored heatmaps are shifted by one pixel to the right, as in mmpose without UDP, because mirroring pixels
    displaces them by three quarters of a heatmap pixel. `flip_shift` in the card's `[decode]` overrides this.
    """
    ((name, heatmaps),) = outputs.items()
    plain, mirrored = np.split(heatmaps, 2)
    shift = card.decode.get("flip_shift", _method(card) != "udp")
    back = heatmap.flip_back(mirrored, coco17.FLIP_PAIRS, shift)
    return {name: (plain + back) / 2}


def score(predictions: Sequence[Person], dataset: KeypointDataset, seed: int = 0) -> dict[str, Metric]:
    """The ten COCO metrics with 95 % intervals, by name."""
    return keypoints.score(dataset.coco, to_coco(predictions), seed)


def paired(
    before: Sequence[Person], after: Sequence[Person], dataset: KeypointDataset, seed: int = 0
) -> dict[str, Change]:
    """The change of each metric from `before` to `after` on the same images, with its 95 % interval."""
    return keypoints.paired(dataset.coco, to_coco(before), to_coco(after), seed)


def agreement(before: Person, after: Person) -> dict[str, float]:
    """The agreement of two predictions for one sample: OKS, and the mean distance of the keypoints in pixels.

    Only keypoints that are visible in `before` count; NaN if there are none. For OKS the area of a person is 0.53 of
    the box, the mean of COCO.
    """
    first, second = np.array(before["keypoints"]), np.array(after["keypoints"])
    visible = first[:, 2] > VISIBLE
    if not visible.any():
        return {"OKS": float("nan"), "pixels": float("nan")}
    squared = ((first[:, :2] - second[:, :2]) ** 2).sum(1)[visible]  # squared distances in pixels
    area = AREA_OF_BOX * before["box"][2] * before["box"][3]
    similar = np.exp(-squared / (2 * area * (2 * coco17.SIGMAS[visible]) ** 2))
    return {"OKS": float(similar.mean()), "pixels": float(np.sqrt(squared).mean())}


def to_coco(predictions: Sequence[Person]) -> list[CocoResult]:
    """Predictions in COCO's result format, without duplicates in an image (OKS above 0.9)."""
    by_image: defaultdict[Id, list[Person]] = defaultdict(list)
    for prediction in predictions:
        by_image[prediction["image_id"]].append(prediction)
    results: list[CocoResult] = []
    for image_id, people in by_image.items():
        joints = np.array([person["keypoints"] for person in people])
        scores = np.array([person["score"] for person in people])
        areas = np.array([person["area"] for person in people])
        results += [
            {"image_id": image_id, "category_id": 1, "keypoints": joints[i].ravel().tolist(), "score": float(scores[i])}
            for i in oks_nms(joints[..., :2], scores, areas)
        ]
    return results


def draw(image: np.ndarray, predictions: Sequence[Person]) -> np.ndarray:
    """A copy of an image, (H, W, 3) uint8 RGB, with skeletons: left orange, right blue, only visible joints."""
    picture = image.copy()
    for prediction in predictions:
        skeleton.draw(picture, np.array(prediction["keypoints"]), prediction["area"], VISIBLE)
    return picture


VARIANTS = Variants(wider, smaller)
SHAPES = None
COCO_RESULTS = to_coco
