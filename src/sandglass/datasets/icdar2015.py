"""ICDAR 2015, Challenge 4: `img_N.jpg` in one folder, `gt_img_N.txt` in another, four corners and a text a line."""

from __future__ import annotations

import re
from pathlib import Path

from sandglass.datasets import Options, TextDataset, _text

KIND = TextDataset
class_names = None  # its images have no classes
LINE = "x1,y1,x2,y2,x3,y3,x4,y4,text"
COORDINATES = 8
NUMBER = re.compile(r"\s*[-+]?\d+(\.\d*)?\s*")
TABS = re.compile(r"([-+\d. ]+\t){7}")  # between the numbers, in place of commas


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> TextDataset:
    """Read the images that have a `gt_IMAGE.txt`; `limit` is their number, drawn by `seed`.

    Texts that read `###` or `*` are ignored regions. `split` does not matter here: the folders say it. See
    `_text.load_folder` for what is counted and what is raised.
    """
    return _text.load_folder(
        "icdar2015", images, annotations, detections, limit, seed,
        key=lambda stem: stem.removeprefix("gt_"), suffixes={".txt"}, parse=parse,
    )  # fmt: skip


def parse(path: Path) -> list[_text.Outline]:
    """Outlines and texts of a file. Raises DatasetError naming a line that is not a text."""
    return [_parse_line(line, f"{path}, line {number}") for number, line in _text.lines(path)]


def _parse_line(line: str, where: str) -> _text.Outline:
    fields = line.split("\t" if TABS.match(line) else ",", COORDINATES)
    few = next((i for i, field in enumerate(fields) if not NUMBER.fullmatch(field)), len(fields))
    count = few if 2 <= few < 6 else COORDINATES  # fewer than three points are a defect, other lines are not texts
    values = _text.numbers(fields[:count], where, line, LINE)
    return _text.points(values), ",".join(fields[count:])


def example(folder: Path) -> Options:
    """Write a few drawn pages, their annotations with a byte-order mark."""
    from sandglass.datasets import synthetic_text
    from sandglass.vision.image import write_image

    drawn = synthetic_text.load(limit=6)
    (folder / "gt").mkdir(parents=True)
    for number, name in enumerate(drawn.image_ids, 1):
        write_image(folder / "images" / f"img_{number}.png", drawn.read(name))
        texts = [
            ",".join([str(round(value)) for point in points for value in point] + ["###" if ignored else "word, etc."])
            for points, ignored in drawn.texts[name]
        ]
        (folder / "gt" / f"gt_img_{number}.txt").write_text("\n".join(texts), encoding="utf-8-sig")
    return {"images": folder / "images", "annotations": folder / "gt"}
