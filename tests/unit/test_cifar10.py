"""CIFAR-10's formats, and batches that are not what they should be."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz import seeds
from sandglass.core.errors import DatasetError
from sandglass.datasets import cifar10
from sandglass.vision.image import write_image

COUNT = 12


@pytest.fixture
def pixels() -> np.ndarray:
    """Images (N, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)


LABELS = [i % 10 for i in range(COUNT)]


def planes(pixels: np.ndarray) -> np.ndarray:
    """As the published files store them: (N, 3072), red first."""
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def binary(pixels: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, planes(pixels), strict=True))


def python2(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 pickled it (protocol 2), which is how the published ones are."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    raw = planes(pixels).tobytes()
    shape = b"K" + bytes([len(pixels)]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        + b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )  # fmt: skip
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def python3(pixels: np.ndarray, labels: list[int], protocol: int = 2) -> bytes:
    return pickle.dumps({"data": np.ascontiguousarray(planes(pixels)), "labels": labels}, protocol=protocol)


@pytest.mark.parametrize("encode", [binary, python2, python3], ids=["binary", "python 2", "python 3"])
def test_published_formats_give_the_same_images(encode: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    """Binary and Python batches hold the same pixels and labels; the published folder may lie in the one given."""
    ending = ".bin" if encode is binary else ""
    folder = tmp_path / ("cifar-10-batches-bin" if ending else "cifar-10-batches-py")
    folder.mkdir()
    (folder / f"test_batch{ending}").write_bytes(encode(pixels, LABELS))
    for given in (tmp_path, folder, folder / f"test_batch{ending}"):
        dataset = cifar10.load(given)
        assert list(dataset.labels.values()) == LABELS
        for i in dataset.image_ids:
            np.testing.assert_array_equal(dataset.read(i), pixels[i])


def test_train_split_is_five_batches(pixels: np.ndarray, tmp_path: Path) -> None:
    """They come one after the other; one that is missing is named."""
    for k in range(1, 6):
        (tmp_path / f"data_batch_{k}.bin").write_bytes(binary(pixels[k : k + 2], LABELS[k : k + 2]))
    dataset = cifar10.load(tmp_path, split="train")
    assert len(dataset.image_ids) == 10
    np.testing.assert_array_equal(dataset.read(9), pixels[6])
    assert dataset.images[9] == "data_batch_5.bin#1"
    assert "data_batch_1.bin .. data_batch_5.bin" in dataset.protocol["dataset"]
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DatasetError, match=r"data_batch_3\.bin is missing"):
        cifar10.load(tmp_path, split="train")


def test_arrays_in_one_file(pixels: np.ndarray, tmp_path: Path) -> None:
    """An .npz with images and labels is read; one with objects in it is refused, because they would be pickles."""
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array(LABELS, np.uint8))
    dataset = cifar10.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(dataset.read(3), pixels[3])
    dataset.read(3)[:] = 0
    np.testing.assert_array_equal(dataset.read(3), pixels[3])
    np.savez(tmp_path / "b.npz", images=np.array([{}], object), labels=np.array([0]))
    with pytest.raises(DatasetError, match=r"b\.npz is not a batch"):
        cifar10.load(tmp_path / "b.npz")


def test_class_folders_may_lie_in_folders_of_splits(tmp_path: Path) -> None:
    """Folders named by the classes, under the split's name where there is one, have CIFAR-10's labels."""
    for split, name in (("train", "dog"), ("test", "ship"), ("test", "cat")):
        write_image(tmp_path / split / name / "0.png", np.zeros((32, 32, 3), np.uint8))
    assert list(cifar10.load(tmp_path).labels.values()) == [3, 8]
    assert list(cifar10.load(tmp_path, split="train").labels.values()) == [5]


def test_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    """A name that no array needs is refused before it is looked up, and nothing happens."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for protocol in (2, 4):
        (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Evil(), "labels": [0]}, protocol=protocol))
        with pytest.raises(DatasetError, match="which no array needs: it was refused and nothing was executed"):
            cifar10.load(tmp_path)
        assert not (tmp_path / "ran").exists()


def test_labels_out_of_range_are_counted(pixels: np.ndarray, tmp_path: Path) -> None:
    """CIFAR-100's labels, say, are one line with the first of them."""
    (tmp_path / "test_batch.bin").write_bytes(binary(pixels, [*LABELS[:-2], 10, 99]))
    with pytest.raises(DatasetError, match="2 of 12 labels are out of range, the first is 10 at image 10"):
        cifar10.load(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-100],
        lambda data: b"",
        lambda data: b"PK" + data[2:],
        lambda data: b"\x80\x02" + data[2:],
        lambda data: b"{}",
    ],
    ids=["cut", "empty", "no zip", "no pickle", "text"],
)
def test_spoilt_batches_are_one_line(spoil: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    """Whatever the bytes are, the file is named and nothing else happens."""
    (tmp_path / "test_batch.bin").write_bytes(spoil(binary(pixels, LABELS)))
    with pytest.raises(DatasetError, match=r"test_batch\.bin"):
        cifar10.load(tmp_path)


@pytest.mark.parametrize("cut", [20, 200, 5000])
def test_cut_python_batches_are_one_line(cut: int, pixels: np.ndarray, tmp_path: Path) -> None:
    """A download that broke off."""
    (tmp_path / "test_batch").write_bytes(python2(pixels, LABELS)[:cut])
    with pytest.raises(DatasetError, match="test_batch is not a batch"):
        cifar10.load(tmp_path)


def test_wrong_options_are_told(tmp_path: Path) -> None:
    """No folder, another folder, another split, and options that other datasets have."""
    (tmp_path / "weld").mkdir()
    write_image(tmp_path / "weld" / "a.png", np.zeros((8, 8, 3), np.uint8))
    for options, message in (
        ({}, "needs images"),
        ({"images": tmp_path / "none"}, "there is no .*none"),
        ({"images": tmp_path}, "neither batches nor CIFAR-10's classes"),
        ({"images": tmp_path, "split": "val"}, "no split 'val'"),
        ({"images": tmp_path, "annotations": tmp_path}, "leave out annotations and detections"),
    ):
        with pytest.raises(DatasetError, match=message):
            cifar10.load(**options)


def spoilt(**entries: bytes) -> bytes:
    """A pickle with the given opcodes as values."""
    return seeds.pickled(seeds.dictionary(**entries))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"Ns.", "a key is a nested tuple"),
        (b"\x80\x02" + b")" + b"\x85" * 1_000_000 + b".", "more than 600000 opcodes"),
        (spoilt(data=b"N", labels=b"]"), "its data is not rows"),
        (spoilt(data=b"]", labels=b"]"), "its data is not rows"),
        (spoilt(labels=b"]"), "'data'"),
        (seeds.pickled(b"]"), "list"),
    ],
)
def test_hostile_batches_are_refused_at_once(content: bytes, message: str, tmp_path: Path) -> None:
    """Nested keys, many opcodes, and other values than arrays."""
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        cifar10.read_batch(tmp_path / "test_batch")


def test_an_array_that_does_not_fit_its_bytes(pixels: np.ndarray, tmp_path: Path) -> None:
    """A shape that announces more than is there."""
    data = python2(pixels, LABELS)
    (tmp_path / "test_batch").write_bytes(data.replace(b"K" + bytes([COUNT]) + b"M", b"K\x7fM", 1))
    with pytest.raises(DatasetError, match=r"an array of shape \[127, 3072\] and type uint8 has 36864 bytes"):
        cifar10.read_batch(tmp_path / "test_batch")


def test_arrays_that_unpack_to_more_than_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive of zeros."""
    np.savez_compressed(
        tmp_path / "a.npz", images=np.zeros((4000, 32, 32, 3), np.uint8), labels=np.zeros(4000, np.uint8)
    )
    monkeypatch.setattr("sandglass.formats.npz.read_npz.__defaults__", (1 << 20,))
    with pytest.raises(DatasetError, match="its arrays take more than 1 MiB"):
        cifar10.read_batch(tmp_path / "a.npz")
