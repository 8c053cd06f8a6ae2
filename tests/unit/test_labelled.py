"""Draws by class, and folders of classes with what is wrong in them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sandglass.core.errors import DatasetError
from sandglass.datasets import _labelled, imagenet
from sandglass.vision.image import write_image


def write(folder: Path, *names: str) -> Path:
    """Small images at the given places."""
    for name in names:
        write_image(folder / name, np.full((4, 4, 3), 100, np.uint8))
    return folder


def test_a_draw_has_each_class_in_its_share() -> None:
    """Of classes with 600, 300 and 100 images a tenth has 60, 30 and 10; an odd number is right to within one."""
    labels = [0] * 600 + [1] * 300 + [2] * 100
    np.random.default_rng(1).shuffle(labels)
    for limit in (100, 57, 3):
        counts = Counter(labels[i] for i in _labelled.stratified(labels, limit, 0))
        for label, share in enumerate((0.6, 0.3, 0.1)):
            assert abs(counts[label] - share * limit) <= 1
    assert Counter(labels[i] for i in _labelled.stratified(labels, 100, 0)) == {0: 60, 1: 30, 2: 10}


def test_a_draw_is_random_by_its_seed_and_grows() -> None:
    """The same seed gives the same images, another one others, and more images hold the fewer."""
    labels = [i % 7 for i in range(700)]
    few = _labelled.stratified(labels, 70, 3)
    assert few == _labelled.stratified(labels, 70, 3) == sorted(set(few))
    assert len(set(few) & set(_labelled.stratified(labels, 70, 4))) < 25
    assert set(few) < set(_labelled.stratified(labels, 140, 3))


def test_fewer_images_than_classes_are_of_different_classes() -> None:
    """Each image of a draw of 5 from 20 classes is of a class of its own, and the seed chooses them."""
    labels = [i // 10 for i in range(200)]
    drawn = [[labels[i] for i in _labelled.stratified(labels, 5, seed)] for seed in range(2)]
    assert all(len(set(classes)) == 5 for classes in drawn)
    assert drawn[0] != drawn[1]


def test_folders_are_numbered_by_name(tmp_path: Path) -> None:
    """Known names have their places, numbers are themselves, others go by the alphabet."""
    for names, known, expected, classes in (
        (("dog", "cat"), ("fish", "cat", "dog"), {"cat": 1, "dog": 2}, ["fish", "cat", "dog"]),
        (("10", "9"), ("cat",), {"9": 9, "10": 10}, []),
        (("zebra", "ape"), ("cat",), {"ape": 0, "zebra": 1}, ["ape", "zebra"]),
    ):
        folder = write(tmp_path / names[0], *(f"{name}/a.png" for name in names))
        found, names_found = _labelled.class_folders(folder, known)
        assert dict(zip((name.split("/")[0] for name in found.images), found.labels, strict=True)) == expected
        assert found.labels == sorted(found.labels)
        assert names_found == classes


def test_folders_that_are_only_partly_classes_are_refused(tmp_path: Path) -> None:
    """One stranger among known classes would shift nobody's label, but is surely a mistake."""
    folder = write(tmp_path / "a", "cat/a.png", "cot/a.png")
    with pytest.raises(DatasetError, match="not names of classes, such as cot"):
        _labelled.class_folders(folder, ("cat", "dog"))


def test_empty_and_unreadable_folders_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty class, one that cannot be read and images beside the folders are noted; hidden folders are not."""
    folder = write(tmp_path, "cat/a.png", "dog/b.png", "fish/c.png", ".trash/d.png", "loose.png")
    (folder / "ant").mkdir()
    (folder / "cat" / "notes.txt").write_text("not an image")
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found, classes = _labelled.class_folders(folder, ())
    assert (found.images, found.labels) == (["cat/a.png", "fish/c.png"], [1, 3])
    assert classes == ["ant", "cat", "dog", "fish"]
    assert found.notes == {
        "empty_class_folders": "1 (ant)",
        "unreadable_class_folders": "1 (dog)",
        "images_without_label": "1 (loose.png)",
    }


def test_folder_without_any_image_is_refused(tmp_path: Path) -> None:
    """Nothing but empty classes is one clear line."""
    (tmp_path / "cat").mkdir()
    with pytest.raises(DatasetError, match="no folder of a class with images"):
        _labelled.class_folders(tmp_path, ())


def test_a_part_is_marked_and_the_whole_is_not(tmp_path: Path) -> None:
    """The protocol says how a part was drawn; a limit that leaves everything is no part."""
    options = imagenet.example(tmp_path)
    part = imagenet.load(**options, limit=4, seed=7).protocol
    assert part["subset"] == "4 of 6 images, drawn by class with seed 7"
    assert part["partial"] is True
    for limit in (None, 6, 60):
        assert imagenet.load(**options, limit=limit).protocol["subset"] == "all 6 images"
        assert "partial" not in imagenet.load(**options, limit=limit).protocol
