"""Image classification: one of many classes for each image.

The preprocessing is that of mmpretrain 1.x (ResizeEdge, CenterCrop, and the normalization of its data preprocessor).
Top-1 and top-5 accuracy are those of its Accuracy metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from sandglass.core.errors import CardError, DatasetError, GraphError, InputError
from sandglass.core.image_ids import Id, id_order
from sandglass.core.json_values import JsonObject
from sandglass.datasets import LabelledDataset, load_dataset_module
from sandglass.metrics import Interval, Metric, bootstrap
from sandglass.sources.card import Card
from sandglass.tasks import DecodeField, Outputs, Prediction, View
from sandglass.vision.affine import Box
from sandglass.vision.image import normalize
from sandglass.vision.resize import LIBRARIES, OPENCV, by_short_side, centre_crop, resize

METRICS = ("top-1", "top-5")
READS = LabelledDataset
DATASET = "synthetic-shapes"
DECODE: dict[str, DecodeField] = {
    "short_side": int,
    "interpolation": tuple(OPENCV),
    "library": tuple(LIBRARIES),
    "classes": object,  # a list of names, or the name of a dataset with names of classes
    "probabilities": bool,
    "flip_test": bool,
}
PROTOCOL: JsonObject = {}
VARIANTS = None
SHAPES = None
COCO_RESULTS = None
FIDELITY = ("same class", "logit error")
LEAST_FIDELITY = 0.95  # one of 20 images may get another class, when two classes are nearly equally likely
LISTED = 20  # classes in a prediction
SHOWN = 5  # classes in a picture and in the top-5 accuracy
FAINTEST = 1e-12  # least probability of which a logarithm is taken
READABLE = 192  # least side of a picture in pixels: a smaller image is enlarged before text is drawn into it


@dataclass(frozen=True)
class Sample:
    """An image, its class if it is known, and the box (x, y, width, height) to cut out if it is not the whole image."""

    index: int
    image_id: Id
    label: int | None = None
    box: Box | None = None


class LabelledView(View):
    """A view with the class of the image, if it is known."""

    label: int | None


class NamedClasses(Prediction, total=False):
    """A prediction with the names of the first classes, if the card has names."""

    names: list[str]


class Classes(NamedClasses):
    """The most likely classes of an image, the best first, and their scores: probabilities with six digits."""

    classes: list[int]
    scores: list[float]


def samples(dataset: LabelledDataset) -> list[Sample]:
    """One sample for each image."""
    return [Sample(index, image_id, label) for index, (image_id, label) in enumerate(dataset.labels.items())]


def samples_in_image(image: np.ndarray, boxes: Sequence[Sequence[float]]) -> list[Sample]:
    """The whole image, or its regions `boxes` (x, y, width, height). Raises InputError for a box outside the image."""
    height, width = image.shape[:2]
    for x, y, w, h in boxes:
        if min(x + w, width) - max(x, 0) < 1 or min(y + h, height) - max(y, 0) < 1:
            raise InputError(f"the box {x:g},{y:g},{w:g},{h:g} is outside the image, which is {width}x{height}")
    return [Sample(i, 0, None, (b[0], b[1], b[2], b[3])) for i, b in enumerate(boxes)] or [Sample(0, 0)]


def prepare(image: np.ndarray, sample: Sample, card: Card) -> tuple[np.ndarray, LabelledView]:
    """The network's input, (3, H, W) float32: the image resized, cropped to its center, and normalized.

    Raises CardError for a `short_side` that is smaller than the input.
    """
    if sample.box:
        x, y, w, h = sample.box
        image = image[max(0, int(y)) : int(y + h), max(0, int(x)) : int(x + w)]
    size, short = card.input.size, card.decode.get("short_side")
    if short is not None and short < max(size):
        raise CardError(f"short_side is {short!r}, expected at least the input's {max(size)}", "correct the card")
    whole = size if short is None else by_short_side((image.shape[0], image.shape[1]), short)
    library, interpolation = card.decode.get("library", "opencv"), card.decode.get("interpolation", "bilinear")
    pixels = centre_crop(resize(image, whole, library, interpolation), size)
    if card.input.channels == "bgr":
        pixels = pixels[..., ::-1]
    array = normalize(pixels, card.input.mean, card.input.std)
    return array, {"image_id": sample.image_id, "label": sample.label}


def decode(outputs: Outputs, views: Sequence[LabelledView], card: Card) -> list[Classes]:
    """Predictions from logits (N, classes), or from probabilities (`probabilities` in the card).

    Raises GraphError for an output of another shape, and DatasetError for a label that the network does not have.
    """
    values = _values(outputs)
    _check_labels(views, values.shape[1])
    names = _names(card.decode.get("classes", ()))
    best = np.argsort(-values, axis=1, kind="stable")[:, :LISTED]  # (N, LISTED)
    scores = values.astype(np.float64)
    if not card.decode.get("probabilities", False):
        scores = np.exp(scores - scores.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
    predictions: list[Classes] = []
    for view, classes, row in zip(views, best.tolist(), np.take_along_axis(scores, best, 1).tolist(), strict=True):
        digits = [float(f"{probability:.6g}") for probability in row]
        prediction: Classes = {"image_id": view["image_id"], "classes": classes, "scores": digits}
        if names:
            prediction["names"] = [names[c] if c < len(names) else str(c) for c in classes[:SHOWN]]
        predictions.append(prediction)
    return predictions


def _check_labels(views: Sequence[LabelledView], classes: int) -> None:
    """Raise DatasetError for a label that the network does not have."""
    for view in views:
        if view["label"] is not None and view["label"] >= classes:
            raise DatasetError(
                f"image {view['image_id']} has the label {view['label']}, but the network has {classes} classes",
                "use a dataset with the network's classes",
            )


def _values(outputs: Outputs) -> np.ndarray:
    """The only output as (N, classes); further axes of length 1 are allowed, as they follow a final convolution."""
    arrays = list(outputs.values())
    if len(arrays) != 1 or arrays[0].ndim < 2 or arrays[0].shape[1] < 2 or max(arrays[0].shape[2:], default=1) > 1:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise GraphError(f"the graph's outputs are {shapes}, expected (1, classes)", "fix `task` in the card")
    return arrays[0].reshape(arrays[0].shape[:2])


def _names(classes: object) -> tuple[str, ...]:
    """The names of the classes, from a card's list or from the dataset that it names."""
    if isinstance(classes, str):
        return _names_of(classes)
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise CardError(f"classes is {classes!r}, expected a list of names or a dataset", "correct the card")
    return tuple(classes)


@lru_cache
def _names_of(dataset: str) -> tuple[str, ...]:
    names = load_dataset_module(dataset).class_names
    if names is None:
        raise CardError(f"classes is {dataset!r}, a dataset without a list of class names", "correct the card")
    return tuple(names())


def encode(predictions: Sequence[Classes], views: Sequence[LabelledView], card: Card) -> dict[str, np.ndarray]:
    """Logits (or probabilities) that `decode` turns into these predictions; other classes get the least probability."""
    count = 1 + max(max(prediction["classes"]) for prediction in predictions)
    values = np.full((len(predictions), max(2, count)), FAINTEST)
    for row, prediction in zip(values, predictions, strict=True):
        row[prediction["classes"]] = np.maximum(prediction["scores"], FAINTEST)
    return {"logits": (values if card.decode.get("probabilities", False) else np.log(values)).astype(np.float32)}


def truths(dataset: LabelledDataset) -> list[Classes]:
    """The labels as predictions, for the images with a label."""
    labels = {image_id: label for image_id, label in dataset.labels.items() if label is not None}
    return [{"image_id": image_id, "classes": [label], "scores": [1.0]} for image_id, label in labels.items()]


def flip_inputs(inputs: np.ndarray) -> np.ndarray:
    """Inputs (N, 3, H, W) followed by their mirror images: (2N, 3, H, W)."""
    return np.concatenate([inputs, inputs[..., ::-1]])


def merge_flipped(outputs: Outputs, card: Card) -> dict[str, np.ndarray]:
    """Mean of the outputs of images and of their mirror images, (2N, ...) -> (N, ...)."""
    return {name: np.mean(np.split(array, 2), axis=0) for name, array in outputs.items()}


def score(predictions: Sequence[Classes], dataset: LabelledDataset, seed: int = 0) -> dict[str, Metric]:
    """Top-1 and top-5 accuracy with 95 % intervals; NaN without labels."""
    return {name: {**accuracy} for name, accuracy in _means(_correct(predictions, dataset), seed).items()}


def paired(
    before: Sequence[Classes],
    after: Sequence[Classes],
    dataset: LabelledDataset,
    seed: int = 0,
) -> dict[str, Interval]:
    """The change of each metric from `before` to `after` on the same images, with its 95 % interval."""
    return _means(_correct(after, dataset) - _correct(before, dataset), seed)


def _correct(predictions: Sequence[Classes], dataset: LabelledDataset) -> np.ndarray:
    """For each image whether its label is the first class, and among the first five: (images, 2), 0 or 1.

    NaN for an image without a label.
    """
    return np.array(
        [
            [_is_among(dataset.labels[p["image_id"]], p["classes"][:count]) for count in (1, SHOWN)]
            for p in sorted(predictions, key=lambda p: id_order(p["image_id"]))
        ],
        np.float64,
    )


def _is_among(label: int | None, classes: Sequence[int]) -> float:
    return float("nan") if label is None else float(label in classes)


def _means(values: np.ndarray, seed: int) -> dict[str, Interval]:
    """The mean of each column of `values` (images, metrics) with its 95 % interval, by the name of the metric."""
    resampled = bootstrap.means(values, seed)
    means: dict[str, Interval] = {}
    for name, column, drawn in zip(METRICS, values.T, resampled.T, strict=True):
        low, high = bootstrap.interval(drawn)
        means[name] = {"value": float(column.mean()), "low": low, "high": high}
    return means


def agreement(before: Classes, after: Classes) -> dict[str, float]:
    """Whether two predictions have the same first class, and the distance of the logits of the first five classes.

    "logit error" is the root mean square of the differences of log probabilities, which are logits up to a constant. A
    class that `after` does not list counts with the score of its last class.
    """
    other = dict(zip(after["classes"], after["scores"], strict=True))
    least = after["scores"][-1]
    pairs = [(p, other.get(c, least)) for c, p in zip(before["classes"][:SHOWN], before["scores"], strict=False)]
    first, second = np.log(np.maximum(np.array(pairs), FAINTEST)).T
    return {
        "same class": float(before["classes"][0] == after["classes"][0]),
        "logit error": float(np.sqrt(np.mean((first - second) ** 2))),
    }


def draw(image: np.ndarray, predictions: Sequence[Classes]) -> np.ndarray:
    """A copy of an image, (H, W, 3) uint8 RGB, with the five most likely classes of each prediction in its corner.

    An image that is too small for readable text is enlarged by a whole factor.
    """
    factor = -(-READABLE // min(image.shape[:2])) if predictions else 1
    picture = np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1)) if factor > 1 else image.copy()
    lines = [line for prediction in predictions for line in _lines(prediction)]
    if not lines:
        return picture
    height, width = picture.shape[:2]
    font, probe = cv2.FONT_HERSHEY_SIMPLEX, 1.0
    widest = max(cv2.getTextSize(line, font, probe, 1)[0][0] for line in lines)
    tall = cv2.getTextSize("Ay", font, probe, 1)[0][1] * 1.8
    scale = min(0.9 * width / widest, 0.5 * height / (tall * len(lines)), max(0.4, height / 700))
    step = tall * scale
    panel = picture[: round(step * (len(lines) + 0.5)), : round(widest * scale + step)]
    panel[:] = panel // 3
    for i, line in enumerate(lines):
        place = (round(step / 2), round(step * (i + 0.9)))
        cv2.putText(picture, line, place, font, scale, (255, 255, 255), max(1, round(scale * 1.5)), cv2.LINE_AA)
    return picture


def _lines(prediction: Classes) -> list[str]:
    names = prediction.get("names") or [f"class {c}" for c in prediction["classes"]]
    return [f"{score:.3f}  {name}" for score, name in zip(prediction["scores"][:SHOWN], names, strict=False)]
