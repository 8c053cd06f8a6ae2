"""ImageNet's layouts: folders of classes, mmpretrain's and the devkit's files of labels, and what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.datasets import imagenet
from sandglass.vision.image import write_image


def images(folder: Path, *names: str) -> Path:
    """Images whose grey tells them apart."""
    for i, name in enumerate(names):
        write_image(folder / name, np.full((4, 5, 3), 20 * i, np.uint8))
    return folder


def labels(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8-sig"))  # with a byte-order mark, as Windows writes it
    return path


def test_table_has_a_thousand_classes_in_order() -> None:
    """WordNet ids rise, the devkit's ids are 1 to 1000, and places and names are the well-known ones."""
    wordnet, numbers, names = zip(*imagenet.table(), strict=True)
    assert list(wordnet) == sorted(set(wordnet))
    assert sorted(numbers) == list(range(1, 1001))
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert imagenet.table()[277] == ("n02119022", 62, "red fox")
    assert imagenet.table()[278] == ("n02119789", 1, "kit fox")


def test_devkits_ids_lead_to_the_known_labels() -> None:
    """The first ten images of the validation set: the devkit's ids, and their labels in Caffe's val.txt."""
    places = {number: i for i, (_, number, _) in enumerate(imagenet.table())}
    known = {490: 65, 361: 970, 171: 230, 822: 809, 297: 516, 482: 57, 13: 334, 704: 415, 599: 674, 164: 332}
    assert {number: places[number] for number in known} == known


def test_folders_named_by_wordnet_have_the_tables_places(tmp_path: Path) -> None:
    """A subset of ImageNet's folders keeps the labels of the whole."""
    dataset = imagenet.load(images(tmp_path / "val", "n02119789/b.JPEG", "n01440764/a.JPEG"))
    assert list(dataset.labels.values()) == [0, 278]
    assert list(dataset.images.values()) == ["n01440764/a.JPEG", "n02119789/b.JPEG"]
    assert dataset.classes[278] == "kit fox"
    assert dataset.protocol["dataset"] == "imagenet, val, one folder per class"


def test_folders_of_ones_own_are_told_to_be(tmp_path: Path) -> None:
    """Other names are classes by the alphabet, and the protocol says so."""
    dataset = imagenet.load(images(tmp_path / "val", "weld/b.png", "crack/a.png"))
    assert dataset.classes == ("crack", "weld")
    assert dataset.protocol["dataset"] == "imagenet, val, one folder per class, 2 in alphabetical order"


def test_labels_as_mmpretrain_writes_them(tmp_path: Path) -> None:
    """Names with folders and with spaces; what has no partner is counted on both sides and left out."""
    folder = images(tmp_path / "val", "a b.jpg", "n01/c.jpg", "stray.jpg")
    dataset = imagenet.load(folder, labels(tmp_path / "val.txt", "n01/c.jpg 7\na b.jpg 999\ngone.jpg 3\n"))
    assert dict(zip(dataset.images.values(), dataset.labels.values(), strict=True)) == {"n01/c.jpg": 7, "a b.jpg": 999}
    assert dataset.protocol["images_without_label"] == "1 (stray.jpg)"
    assert dataset.protocol["labels_without_image"] == "1 (gone.jpg)"
    assert dataset.read(1).shape == (4, 5, 3)


def test_labels_as_the_devkit_writes_them(tmp_path: Path) -> None:
    """Line k is the ILSVRC2012_ID of the image with the number k; it is brought to the table's place."""
    names = [f"ILSVRC2012_val_0000000{k}.JPEG" for k in (3, 1)]
    truth = labels(tmp_path / "truth.txt", "1\n449\n62\n")
    dataset = imagenet.load(images(tmp_path / "val", *names), truth)
    found = dict(zip(dataset.images.values(), dataset.labels.values(), strict=True))
    assert found == {names[0]: 277, names[1]: 278}
    assert dataset.protocol["labels_without_image"] == "1 (image 2)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\na.jpg 1000\nb.jpg 4000\n", "line 2: a.jpg already has the label"),
        ("a.jpg 1\nb.jpg 1000\nc.jpg 4000\n", "2 of 3 labels are out of range, the first is 1000 in line 2"),
        ("a.jpg 1\nb.jpg -1\n", "line 2: 'b.jpg -1' is not an image and its label"),
        ("a.jpg\n", "line 1: 'a.jpg' is not an image and its label"),
        ("1\n0\n1001\n", "2 of 3 labels are out of range, the first is 0 in line 2, expected 1 to 1000"),
        ("\n", "has no labels"),
        ("gone.jpg 3\n", "has none of the 1 images"),
    ],
)
def test_bad_labels_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    """Labels out of range are counted and the first is named; a malformed line is named by its number."""
    with pytest.raises(DatasetError, match=message):
        imagenet.load(images(tmp_path / "val", "a.jpg"), labels(tmp_path / "val.txt", text))


def test_what_it_does_not_have_is_refused(tmp_path: Path) -> None:
    """Detections and a missing folder are told."""
    with pytest.raises(DatasetError, match="no detections"):
        imagenet.load(tmp_path, detections=tmp_path / "a.json")
    with pytest.raises(DatasetError, match="needs images"):
        imagenet.load()
