"""Top-down human pose: one person's box in, seventeen COCO keypoints out.

Boxes, warp, decoding and scoring are those of mmpose 1.x (TopdownPoseEstimator with the MSRAHeatmap codec, plain or
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
VISIBLE = 0.2  # joints below this score do not count for a person's score, and are not drawn
PADDING = 1.25
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
AREA_OF_BOX = 0.53
WIDER = 1.6
SMALL = 32.0  # pixels, a person's longer side


@dataclass(frozen=True)
class Sample:
    """One person to look at: box x, y, w, h in pixels of image `image_id`, and the box's score."""

    index: int
    image_id: Id
    box: Box
    score: float = 1.0


class PersonView(View):
    """The region of an image that became the input (see `affine.centre_and_scale`), and the sample's box and score."""

    centre: np.ndarray
    scale: np.ndarray
    score: float
    box: Box


class Person(Prediction):
    """A person: keypoints [[x, y, score] * 17] in pixels of the image, and the area of the region in the input."""

    box: list[float]
    keypoints: list[list[float]]
    score: float
    area: float


def samples(dataset: KeypointDataset) -> list[Sample]:
    """People of a dataset by image: its detections, or the annotated people with keypoints that are no crowd."""
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
    """Annotated people who are samples, by image, with their boxes cut to it."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in dataset.coco["images"]}
    people = [
        (entry, clipped_box(entry["bbox"], *sizes[entry["image_id"]]))
        for entry in dataset.coco["annotations"]
        if is_sample(entry)
    ]
    return sorted((p for p in people if has_area(p[1])), key=lambda p: id_order(p[0]["image_id"]))


def samples_in_image(image: np.ndarray, boxes: Sequence[Sequence[float]]) -> list[Sample]:
    """The people of one image by their boxes x, y, w, h; without boxes the whole image is one person."""
    height, width = image.shape[:2]
    chosen = boxes or [(0.0, 0.0, float(width), float(height))]
    return [Sample(index, 0, _box(box)) for index, box in enumerate(chosen)]


def wider(sample: Sample) -> Sample:
    """The sample with a box WIDER times as wide and high around the same centre.

    Boxes of people at an image's edge reach over it. What a network makes of the black there may be many times as large
    as all else, and few people of a calibration set show it.
    """
    left, top, width, height = sample.box
    grown = (left - (WIDER - 1) / 2 * width, top - (WIDER - 1) / 2 * height, WIDER * width, WIDER * height)
    return replace(sample, box=grown)


def smaller(image: np.ndarray, sample: Sample) -> tuple[np.ndarray, Sample]:
    """The image shrunk until the sample's box is SMALL pixels long, and the sample in it; as they are if it is already.

    Of people who are far away few pixels make the whole input, which has no details then: errors of rounding are alike
    over whole areas, and weigh more.
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
    """The network's input (3, H, W) float32, and what `decode` needs to map keypoints back into the image."""
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

    A person's score is the box's times the mean of its visible joints' scores; its area is that of the cut-out region.
    Raises GraphError for outputs of other shapes.
    """
    heatmaps = _heatmaps(outputs)
    blur = card.decode.get("blur", heatmap.BLURS[0])
    places, scores = heatmap.decode(heatmaps, card.input.size, _method(card), blur)
    centres, scales = _regions(views)
    located = affine.to_image(places, centres, scales, card.input.size)
    shown = scores > VISIBLE
    mean = np.where(shown, scores, 0).sum(1) / np.maximum(shown.sum(1), 1)
    joined = np.concatenate([located, scores[..., None]], axis=2)
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
    """Heatmaps at a quarter of the input that `decode` reads as these people, to a quarter of their pixels.

    A keypoint that the cut-out region does not show is lost.
    """
    joints = np.array([prediction["keypoints"] for prediction in predictions], np.float64)
    centres, scales = _regions(views)
    places = affine.to_input(joints[..., :2], centres, scales, card.input.size)
    return {"heatmaps": heatmap.encode(places, joints[..., 2], card.input.size, method=_method(card))}


def truths(dataset: KeypointDataset) -> list[Person]:
    """The annotated people as predictions, one for each sample: labelled keypoints score 1, the others 0."""
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
    """Mean of the heatmaps of images and of their mirror images, (2N, ...) -> (N, ...).

    The mirrored ones are moved by a pixel to the right, as mmpose does except with UDP: mirroring pixels displaces them
    by three quarters of a heatmap pixel. `flip_shift` in the card's `[decode]` says otherwise.
    """
    ((name, heatmaps),) = outputs.items()
    plain, mirrored = np.split(heatmaps, 2)
    shift = card.decode.get("flip_shift", _method(card) != "udp")
    back = heatmap.flip_back(mirrored, coco17.FLIP_PAIRS, shift)
    return {name: (plain + back) / 2}


def score(predictions: Sequence[Person], dataset: KeypointDataset, seed: int = 0) -> dict[str, Metric]:
    """The ten COCO metrics with 95 % intervals: name to value, low and high."""
    return keypoints.score(dataset.coco, to_coco(predictions), seed)


def paired(
    before: Sequence[Person], after: Sequence[Person], dataset: KeypointDataset, seed: int = 0
) -> dict[str, Change]:
    """The change of each metric from one set of predictions to another on the same images."""
    return keypoints.paired(dataset.coco, to_coco(before), to_coco(after), seed)


def agreement(before: Person, after: Person) -> dict[str, float]:
    """How near two predictions for one sample are: their OKS, and the mean distance of their keypoints in pixels.

    Only keypoints count that are visible before; NaN where none is. OKS takes a person's area to be 0.53 of the box,
    as it is in COCO on average.
    """
    first, second = np.array(before["keypoints"]), np.array(after["keypoints"])
    seen = first[:, 2] > VISIBLE
    if not seen.any():
        return {"OKS": float("nan"), "pixels": float("nan")}
    squared = ((first[:, :2] - second[:, :2]) ** 2).sum(1)[seen]
    area = AREA_OF_BOX * before["box"][2] * before["box"][3]
    similar = np.exp(-squared / (2 * area * (2 * coco17.SIGMAS[seen]) ** 2))
    return {"OKS": float(similar.mean()), "pixels": float(np.sqrt(squared).mean())}


def to_coco(predictions: Sequence[Person]) -> list[CocoResult]:
    """Predictions in COCO's result format, after suppression of doubles in each image (OKS above 0.9)."""
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
    """A copy of an HWC uint8 RGB image with skeletons: left orange, right blue, joints above 0.2 only."""
    picture = image.copy()
    for prediction in predictions:
        skeleton.draw(picture, np.array(prediction["keypoints"]), prediction["area"], VISIBLE)
    return picture


VARIANTS = Variants(wider, smaller)
SHAPES = None
COCO_RESULTS = to_coco
