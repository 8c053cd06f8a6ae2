"""ICDAR 2015, Challenge 4: images `img_N.jpg` in one folder, and `gt_img_N.txt` in another.

Each line of an annotation file has the four corners of a text, and the text.
"""

from __future__ import annotations

import re
from pathlib import Path

from sandglass.datasets import Options, TextDataset, _text

KIND = TextDataset
class_names = None  # its images have no classes
LINE = "x1,y1,x2,y2,x3,y3,x4,y4,text"
COORDINATES = 8  # in a line
NUMBER = re.compile(r"\s*[-+]?\d+(\.\d*)?\s*")
TABS = re.compile(r"([-+\d. ]+\t){7}")  # a line with tabs and not commas between the numbers


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> TextDataset:
    """Read the images that have a `gt_IMAGE.txt`, or `limit` of them, drawn with `seed`.

    Texts `###` or `*` are ignored regions. `split` has no effect: the folders decide it. See `_text.load_folder` for
    the counts in the protocol and the errors.
    """
    return _text.load_folder(
        "icdar2015", images, annotations, detections, limit, seed,
        key=lambda stem: stem.removeprefix("gt_"), suffixes={".txt"}, parse=parse,
    )  # fmt: skip


def parse(path: Path) -> list[_text.Outline]:
    """The outlines and texts of a file. Raises DatasetError with the place of a wrong line."""
    return [_parse_line(line, f"{path}, line {number}") for number, line in _text.lines(path)]


def _parse_line(line: str, where: str) -> _text.Outline:
    fields = line.split("\t" if TABS.match(line) else ",", COORDINATES)
    leading = next((i for i, field in enumerate(fields) if not NUMBER.fullmatch(field)), len(fields))
    # A line with one or two points is a text with a defective outline, which is counted. Other lines with fewer than
    # eight numbers are errors.
    count = leading if 2 <= leading < 6 else COORDINATES
    values = _text.numbers(fields[:count], where, line, LINE)
    return _text.points(values), ",".join(fields[count:])


def example(folder: Path) -> Options:
    """Write a few drawn pages, and annotations with a byte-order mark."""
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
