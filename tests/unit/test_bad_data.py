"""Datasets with every defect at once, through the command line: counted below the table, never a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sandglass.cli.main import main
from sandglass.datasets import ctw1500
from sandglass.vision.image import write_image
from unit.test_cli_classification import save_card
from unit.test_text_datasets import CROSSED, LINE, SQUARE, SQUARE_POINTS, pages
from unit.test_text_detection import ink_detector


def evaluated(card: Path, tmp_path: Path, *options: object) -> int:
    """Deploy a card, and evaluate it with these options."""
    assert main(["deploy", str(card), "--to", "onnxruntime", "--out", str(tmp_path / "out")]) == 0
    command = ["evaluate", tmp_path / "out/onnxruntime-fp32", "--json", tmp_path / "found.json", *options]
    return main([str(argument) for argument in command])


def test_pages_with_defects_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outlines that cross themselves, have two points or no area, marks, ignored texts and files without partners."""
    texts = {
        "gt_img_1.txt": "\n".join([f"{SQUARE},a", f"{CROSSED},b", f"{LINE},c", "1,1,2,2,d", f"{SQUARE},###"]),
        "gt_img_2.txt": f"{SQUARE},*",
        "gt_img_4.txt": f"{SQUARE},a",
    }
    folders = pages(tmp_path, ["img_1.png", "img_2.png", "img_3.png"], texts, "utf-8-sig")
    options = ["--dataset", "icdar2015", "--images", folders[0], "--annotations", folders[1]]
    assert evaluated(ink_detector(tmp_path), tmp_path, *options) == 0
    told = capsys.readouterr().out
    counted = "polygons: 1 fewer than 3 points (left out), 1 no area (left out), 1 cross themselves (kept)"
    for part in (counted, "images without annotation: 1 left out", "annotations without image: 1 left out"):
        assert part in told
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["samples"] == 2
    assert found["metrics"]["recall"]["value"] == 0


def test_pages_of_which_all_texts_are_ignored_have_no_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to find, so there is no number; that is said in the table."""
    folders = pages(tmp_path, ["img_1.png"], {"gt_img_1.txt": f"{SQUARE},###"})
    options = ["--dataset", "icdar2015", "--images", folders[0], "--annotations", folders[1]]
    assert evaluated(ink_detector(tmp_path), tmp_path, *options) == 0
    assert "n/a" in capsys.readouterr().out


@pytest.mark.parametrize("ignored", ["###", "*"])
def test_curved_lines_with_a_mark_and_ignored(ignored: str, tmp_path: Path) -> None:
    """CTW1500's text files with a byte-order mark, both signs of an ignored text, and files without partners."""
    names = ["1001.png", "1002.png", "1003.png"]
    annotations = {
        "0001001.txt": f"{SQUARE},####a\n{SQUARE},####{ignored}\n{CROSSED},####b\n{LINE},####c\n1,1,2,2,####d\n",
        "1002.xml": f"<a><box><label> {ignored} </label><segs>{SQUARE}</segs></box></a>",
        "1009.xml": "<a/>",
    }
    data = ctw1500.load(*pages(tmp_path, names, annotations, "utf-8-sig"))
    assert [flag for _, flag in data.texts["1001"]] == [False, True, False]
    assert data.texts["1002"] == [(SQUARE_POINTS, True)]
    assert data.protocol["polygons"] == (
        "1 fewer than 3 points (left out), 1 no area (left out), 1 cross themselves (kept)"
    )
    assert data.protocol["images without annotation"] == "1 left out"
    assert data.protocol["annotations without image"] == "1 left out"


def test_class_folders_with_defects_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that is empty, one that cannot be read and an image beside them are counted."""
    images = tmp_path / "val"
    for name in ("ant/a.png", "bee/b.png", "cat/c.png", "stray.png"):
        write_image(images / name, np.full((40, 40, 3), 90, np.uint8))
    (images / "dog").mkdir()
    scan = os.scandir

    def refuse(path: object = ".") -> object:  # also a descriptor, as shutil gives it
        if Path(str(path)).name == "bee":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert evaluated(save_card(tmp_path), tmp_path, "--dataset", "imagenet", "--images", images) == 0
    told = capsys.readouterr().out
    for part in ("empty class folders: 1 (dog)", "unreadable class folders: 1 (bee)", "images without label: 1"):
        assert part in told
    assert json.loads((tmp_path / "found.json").read_text())[0]["samples"] == 2


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("ant/a.png 3\nbee/b.png 1000\n", "1 of 2 labels are out of range, the first is 1000 in line 2"),
        ("ant/a.png 3\nbee/b.png -7\n", "line 2: 'bee/b.png -7' is not an image and its label"),
    ],
)
def test_labels_out_of_range_stop_the_command(
    labels: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is for another set: one line that names it, and what to do."""
    for name in ("ant/a.png", "bee/b.png"):
        write_image(tmp_path / "val" / name, np.full((40, 40, 3), 90, np.uint8))
    (tmp_path / "val.txt").write_text(labels)
    options = ["--dataset", "imagenet", "--images", tmp_path / "val", "--annotations", tmp_path / "val.txt"]
    assert evaluated(save_card(tmp_path), tmp_path, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if told in line and "val.txt" in line]
    assert not (tmp_path / "found.json").exists()
