"""CIFAR-10 in the published batches (binary or Python), as arrays in an `.npz`, or as a folder of images per class."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.core.reading import MALFORMED, read_bytes
from sandglass.datasets import LabelledDataset, Options
from sandglass.datasets._labelled import Listing, class_folders, labelled, reader
from sandglass.formats.npz import read_npz
from sandglass.formats.pickled_arrays import NAMES, array, is_array
from sandglass.formats.pickles import Global, read_pickle, text
from sandglass.vision.image import write_image

KIND = LabelledDataset
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32  # of an image, in pixels
BYTES = 3 * SIDE * SIDE  # of an image
SPLITS = {"test": ("test_batch",), "train": tuple(f"data_batch_{k}" for k in range(1, 6))}
MOST_BYTES = 512 << 20  # size of a file, at most; all 60,000 images have 184 MB
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")  # folders in which batches are searched


def class_names() -> tuple[str, ...]:
    """The names of the ten classes."""
    return CLASSES


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> LabelledDataset:
    """Read a split, or draw `limit` images of it from all classes with `seed`.

    `images` is one of:
    - the folder with the published batches, of which `split` selects the files
    - one such file, or an `.npz` with `images` (N, 32, 32, 3) uint8 and `labels` (N,); `split` has no effect then
    - a folder with one folder of images for each class, or with such folders in `train` and `test`

    Code in a batch is never executed. Raises DatasetError if something is missing or malformed, or for a label above 9.
    """
    if annotations is not None or detections is not None:
        raise DatasetError("cifar10 has its labels in its files", "leave out annotations and detections")
    if split not in SPLITS:
        raise DatasetError(f"cifar10 has no split {split!r}", f"use one of {', '.join(SPLITS)}")
    if images is None or not images.exists():
        raise DatasetError(f"there is no {images}" if images else "cifar10 needs images", "give a folder or a file")
    files = [images] if images.is_file() else _batches(images, split)
    if files:
        return _from_arrays(files, limit, seed)
    folder = images / split if (images / split).is_dir() else images
    listing, classes = class_folders(folder, CLASSES)
    if classes and tuple(classes) != CLASSES:
        raise DatasetError(
            f"{folder} has neither batches nor CIFAR-10's classes", f"the classes are {', '.join(CLASSES)}"
        )
    _in_range(folder, listing.labels)
    description, read = f"{folder.name}, one folder per class", reader(folder, listing.images)
    return labelled("cifar10", description, listing, CLASSES, read, limit, seed)


def example(folder: Path) -> Options:
    """Write a few colored images, one folder per class."""
    random = np.random.default_rng(0)
    for i, name in enumerate([*CLASSES[:3], *CLASSES[:3]]):
        write_image(folder / "images" / name / f"{i}.png", random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    return {"images": folder / "images"}


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 RGB and labels (N,) of one file; its first bytes decide the format.

    Raises DatasetError if it is not a batch, or a pickle that names anything but arrays.
    """
    data = read_bytes(path, DatasetError, most=MOST_BYTES)
    try:
        if data[:2] == b"PK":
            images, labels = _arrays(data)
        elif data[:1] == b"\x80":
            images, labels = _pickled(data)
        else:
            images, labels = _binary(data)
    except MALFORMED as error:
        raise DatasetError(f"{path} is not a batch of CIFAR-10: {error}", "download it again") from error
    if images.shape != (len(labels), SIDE, SIDE, 3) or not len(labels):
        raise DatasetError(f"{path} has images {list(images.shape)} and {len(labels)} labels", "download it again")
    _in_range(path, labels.tolist())
    return images, labels


def _batches(folder: Path, split: str) -> list[Path]:
    """The files of a split, binary ones if there are both; empty if the folder has no batches."""
    for inside in FOLDERS:
        for ending in (".bin", ""):
            files = [folder / inside / f"{name}{ending}" for name in SPLITS[split]]
            missing = [file for file in files if not file.is_file()]
            if 0 < len(missing) < len(files):
                raise DatasetError(f"{missing[0]} is missing", f"the {split} split has {len(files)} batches")
            if not missing:
                return files
    return []


def _from_arrays(files: Sequence[Path], limit: int | None, seed: int) -> LabelledDataset:
    parts = [read_batch(file) for file in files]
    images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    names = [f"{file.name}#{i}" for file, part in zip(files, parts, strict=True) for i in range(len(part[1]))]
    description = " .. ".join(dict.fromkeys([files[0].name, files[-1].name])) + f" ({digest[:8]})"
    listing = Listing(names, [int(label) for label in labels])
    return labelled(
        "cifar10", description, listing, CLASSES, lambda index: np.array(images[int(index)], order="C"), limit, seed
    )


def _in_range(path: Path, labels: Sequence[int]) -> None:
    if wrong := [i for i, label in enumerate(labels) if not 0 <= label < len(CLASSES)]:
        raise DatasetError(
            f"{path}: {len(wrong)} of {len(labels)} labels are out of range, the first is {labels[wrong[0]]} at image "
            f"{wrong[0]}, expected 0 to 9",
            "use CIFAR-10, not CIFAR-100",
        )


def _binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels: for each image one byte with the label, then its red, green and blue plane."""
    if len(data) % (1 + BYTES):
        raise ValueError(f"{len(data)} bytes are not a multiple of {1 + BYTES}")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + BYTES)
    return _from_planes(records[:, 1:]), records[:, 0]


def _arrays(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    arrays = read_npz(io.BytesIO(data))
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"images are {images.dtype}, labels {labels.dtype} {list(labels.shape)}")
    return images, labels


def _pickled(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    content = read_pickle(io.BytesIO(data), _refuse)
    if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__}, expected a dictionary")
    batch = {text(key): value for key, value in content.items()}
    pixels = array(batch["data"]) if is_array(batch["data"]) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != BYTES:
        raise ValueError(f"its data is not rows of {BYTES} bytes")
    if not all(type(label) is int and 0 <= label < 1 << 31 for label in batch["labels"]):
        raise ValueError("its labels are not whole numbers")
    return _from_planes(pixels), np.array(batch["labels"], np.int64)


def _refuse(name: Global) -> None:
    """Refuse names that arrays do not need: a batch holds only arrays, so that such a name means an attack."""
    if str(name) not in NAMES:
        raise DatasetError(
            f"the batch names {name}, which no array needs: it was refused and nothing was executed",
            "get the file from its publisher",
        )


def _from_planes(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
