"""Text detection: the outlines of the texts on a page.

The field `decoder` of a card's `[decode]` names one of three kinds of networks: `dbnet` is decoded as in PaddleOCR,
`panet` and `textsnake` as in mmocr 1.x. The page keeps its proportions: it is resized (bilinear, OpenCV) to the largest
size that fits the input. The rest of the input, at the bottom or at the right, is 0 after normalization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from sandglass.core.errors import CardError, GraphError, InputError
from sandglass.core.image_ids import Id
from sandglass.core.json_values import JsonObject
from sandglass.core.sizes import Size
from sandglass.datasets import TextDataset
from sandglass.metrics import Change, Metric, hmean
from sandglass.sources.card import Card
from sandglass.tasks import DecodeField, Extent, Outputs, Prediction, Shapes, View
from sandglass.vision import panet, polygon
from sandglass.vision.dbnet import DBNet
from sandglass.vision.image import normalize
from sandglass.vision.panet import PANet
from sandglass.vision.polygon import DetectedText
from sandglass.vision.textsnake import TextSnake

METRICS = hmean.METRICS
READS = TextDataset
DATASET = "synthetic-text"
FIDELITY = ("IoU", "hmean")
LEAST_FIDELITY = 0.9  # the IoU of a small text that loses one pixel on each side
Decoder = DBNet | PANet | TextSnake
DECODERS: dict[str, type[Decoder]] = {"dbnet": DBNet, "panet": PANet, "textsnake": TextSnake}
# The settings of all decoders. A page is resized to sides that are multiples of `round_to` (default 1); the longer side
# is at most `longest` (default 0: no limit).
SHARED: dict[str, DecodeField] = {"decoder": tuple(DECODERS), "round_to": int, "longest": int, "flip_test": bool}
DECODE: dict[str, DecodeField] = {
    **SHARED,
    **{field.name: type(field.default) for decoder in DECODERS.values() for field in fields(decoder)},
    "outline": panet.OUTLINES,
}
PROTOCOL: JsonObject = {
    "match": f"IoU above {hmean.IOU}",
    "score thresholds": f"{hmean.THRESHOLDS[0]} to {hmean.THRESHOLDS[-1]}",
}
MULTIPLE = 32  # sides of inputs that depend on the page are multiples of it
UNBOUNDED = 1 << 30  # a side of an input that limits nothing
COLOUR = (255, 70, 30)


@dataclass(frozen=True)
class Sample:
    """One page, or its region `box` (x, y, width, height) in whole pixels."""

    index: int
    image_id: Id
    box: tuple[int, int, int, int] | None = None


class PageView(View):
    """The position of a page in the input. Sizes are (height, width) in pixels.

    page     size of the page in its image
    corner   (x, y) of the page in its image
    content  size of the page in the input, at its top left corner
    size     size of the input
    """

    page: Size
    corner: tuple[int, int]
    content: Size
    size: Size


class Texts(Prediction):
    """The texts of a page, with outlines in pixels of its image."""

    texts: list[DetectedText]


def samples(dataset: TextDataset) -> list[Sample]:
    """One sample for each page of a dataset."""
    return [Sample(index, image_id) for index, image_id in enumerate(dataset.image_ids)]


def samples_in_image(image: np.ndarray, boxes: Sequence[Sequence[float]]) -> list[Sample]:
    """The regions `boxes` (x, y, width, height) of one image, or the whole image without boxes.

    Raises InputError for a box outside the image.
    """
    return [Sample(index, 0, _inside(box, image)) for index, box in enumerate(boxes)] or [Sample(0, 0)]


def _inside(box: Sequence[float], image: np.ndarray) -> tuple[int, int, int, int]:
    height, width = image.shape[:2]
    left, right = (round(min(max(value, 0), width)) for value in (box[0], box[0] + box[2]))
    top, bottom = (round(min(max(value, 0), height)) for value in (box[1], box[1] + box[3]))
    if right <= left or bottom <= top:
        raise InputError(f"the box {list(box)} is outside the image of {height}x{width}", "give x, y, width, height")
    return left, top, right - left, bottom - top


def needed(extent: Extent, card: Card) -> Size:
    """The smallest input shape (height, width) for a page of `extent` whose short side becomes that of the card."""
    content = fit(extent, (UNBOUNDED, UNBOUNDED), card)
    height, width = (math.ceil(side / MULTIPLE) * MULTIPLE for side in content)
    return height, width


def prepare(image: np.ndarray, sample: Sample, card: Card, size: Size | None = None) -> tuple[np.ndarray, PageView]:
    """The network's input, (3, H, W) float32, and the view with which `decode` maps texts back into the image.

    `size` is (H, W), by default that of the card.
    """
    left, top, width, height = sample.box or (0, 0, image.shape[1], image.shape[0])
    page = image[top : top + height, left : left + width]
    target = size or card.input.size
    content = fit((height, width), target, card)
    pixels = cv2.resize(page, content[::-1], interpolation=cv2.INTER_LINEAR)
    if card.input.channels == "bgr":
        pixels = pixels[..., ::-1]
    array = np.zeros((3, *target), np.float32)
    array[:, : content[0], : content[1]] = normalize(pixels, card.input.mean, card.input.std)
    return array, {
        "image_id": sample.image_id,
        "page": (height, width),
        "corner": (left, top),
        "content": content,
        "size": target,
    }


def fit(page: Extent, size: Size, card: Card) -> Size:
    """The size (height, width) of a page in an input of `size`: the largest that fits, in multiples of `round_to`.

    Its short side is at most that of the card, which matters only if `size` differs from the card's.
    """
    longest, step = card.decode.get("longest", 0), card.decode.get("round_to", 1)
    scale = min(size[0] / page[0], size[1] / page[1], min(card.input.size) / min(page))
    if longest:
        scale = min(scale, longest / max(page))
    height, width = (
        min(max(step, round(int(side * scale + 0.5) / step) * step), limit)
        for side, limit in zip(page, size, strict=True)
    )
    return height, width


def decode(outputs: Outputs, views: Sequence[PageView], card: Card) -> list[Texts]:
    """Predictions from the network's maps (N, channels, h, w).

    Raises GraphError for outputs of other shapes, and CardError for settings of another decoder.
    """
    decoder = _decoder(card)
    maps = _maps(outputs, decoder.channels)
    return [_decode(decoder, array, view) for array, view in zip(maps, views, strict=True)]


def _decode(decoder: Decoder, maps: np.ndarray, view: PageView) -> Texts:
    texts: list[DetectedText] = [
        {"points": (points + view["corner"]).tolist(), "score": float(score)}
        for points, score in decoder.decode(maps, _scale(maps.shape[1:], view), view["page"])
    ]
    return {"image_id": view["image_id"], "texts": texts}


def _decoder(card: Card) -> Decoder:
    """The decoder of a card with its settings. Raises CardError for settings of another decoder."""
    name = card.decode.get("decoder", next(iter(DECODERS)))
    settings = [*SHARED, *(field.name for field in fields(DECODERS[name]))]
    if unknown := sorted(set(card.decode) - set(settings)):
        raise CardError(f"{card.name}: [decode] {unknown[0]} is unknown for {name}", f"known: {', '.join(settings)}")
    return DECODERS[name](**{key: value for key, value in card.decode.items() if key not in SHARED})


def _maps(outputs: Outputs, channels: int) -> np.ndarray:
    shapes = {name: array.shape for name, array in outputs.items()}
    if len(shapes) != 1 or [(len(shape), shape[1:2]) for shape in shapes.values()] != [(4, (channels,))]:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise GraphError(
            f"the graph's outputs are {listed}, expected maps (1, {channels}, h, w)", "fix `decoder` in the card"
        )
    return next(iter(outputs.values()))


def _scale(size: Sequence[int], view: PageView) -> tuple[float, float]:
    """The number of pixels of the page for one pixel of a map of `size`, along x and y."""
    x, y = (view["size"][axis] / size[axis] * view["page"][axis] / view["content"][axis] for axis in (1, 0))
    return x, y


def encode(predictions: Sequence[Texts], views: Sequence[PageView], card: Card) -> dict[str, np.ndarray]:
    """Maps of the size of the input that `decode` turns into these texts, up to some pixels; texts must not touch."""
    decoder = _decoder(card)
    maps = []
    for prediction, view in zip(predictions, views, strict=True):
        scale = _scale(view["size"], view)
        texts = [((np.array(t["points"]) - view["corner"]) / scale, t["score"]) for t in prediction["texts"]]
        maps.append(decoder.encode(texts, view["size"]))
    return {"maps": np.stack(maps)}


def truths(dataset: TextDataset) -> list[Texts]:
    """The annotated texts as predictions, one for each page; ignored texts are left out."""
    return [
        {"image_id": image, "texts": [{"points": points, "score": 1.0} for points, ignored in texts if not ignored]}
        for image, texts in dataset.texts.items()
    ]


def flip_inputs(inputs: np.ndarray) -> np.ndarray:
    """Inputs (N, 3, H, W) followed by their mirror images: (2N, 3, H, W)."""
    return np.concatenate([inputs, inputs[..., ::-1]])


def merge_flipped(outputs: Outputs, card: Card) -> dict[str, np.ndarray]:
    """The mean of the probabilities of images and of their mirror images, (2N, ...) -> (N, ...).

    Raises InputError for decoders whose maps are not only probabilities: a mean would be wrong for the others.
    """
    if not isinstance(_decoder(card), DBNet):
        raise InputError(f"{card.name}: a flip test needs the decoder dbnet", "leave out --flip-test")
    ((name, maps),) = outputs.items()
    plain, mirrored = np.split(maps, 2)
    return {name: (plain + mirrored[..., ::-1]) / 2}


def score(predictions: Sequence[Texts], dataset: TextDataset, seed: int = 0) -> dict[str, Metric]:
    """hmean, recall and precision at the best score threshold, with 95 % intervals (see `metrics.hmean`)."""
    return hmean.score(list(dataset.texts.values()), _by_image(predictions, dataset), seed)


def paired(before: Sequence[Texts], after: Sequence[Texts], dataset: TextDataset, seed: int = 0) -> dict[str, Change]:
    """The change of each metric from `before` to `after` on the same pages, with its 95 % interval."""
    sides = [_by_image(predictions, dataset) for predictions in (before, after)]
    return hmean.paired(list(dataset.texts.values()), sides[0], sides[1], seed)


def _by_image(predictions: Sequence[Texts], dataset: TextDataset) -> list[list[DetectedText]]:
    """The predicted texts of each image of a dataset, in the order of the dataset."""
    texts = {prediction["image_id"]: prediction["texts"] for prediction in predictions}
    return [texts[image] for image in dataset.texts]


def agreement(before: Texts, after: Texts) -> dict[str, float]:
    """The agreement of two predictions for one page; NaN if both have no text.

    Texts are paired one to one, the most similar first. "IoU" is twice the sum of the IoU of all pairs, divided by the
    number of texts in both predictions. "hmean" is twice the number of pairs with an IoU above 0.5, divided by the same
    number. So a missing text and an additional text lower both.
    """
    first, second = (polygon.regions([text["points"] for text in side["texts"]]) for side in (before, after))
    total = len(first) + len(second)
    if not total:
        return dict.fromkeys(FIDELITY, float("nan"))
    similar = polygon.similarities(first, second)
    pairs = []
    while similar.size and similar.max() > 0:
        row, column = np.unravel_index(similar.argmax(), similar.shape)
        pairs.append(float(similar[row, column]))
        similar[row], similar[:, column] = 0, 0
    return {"IoU": 2 * sum(pairs) / total, "hmean": 2 * sum(value > hmean.IOU for value in pairs) / total}


def draw(image: np.ndarray, predictions: Sequence[Texts]) -> np.ndarray:
    """A copy of an image, (H, W, 3) uint8 RGB, with the outlines of its texts."""
    picture = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 500))
    outlines = [np.array(text["points"]).round().astype(np.int32) for p in predictions for text in p["texts"]]
    cv2.polylines(picture, outlines, True, COLOUR, thickness, cv2.LINE_AA)
    return picture


VARIANTS = None
SHAPES = Shapes(MULTIPLE, needed, prepare)
COCO_RESULTS = None
