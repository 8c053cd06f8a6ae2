"""SCUT-CTW1500: curved lines of text, with annotations in the three formats in which they were published.

- XML (2020, training images): `<image><box><label>TEXT</label><segs>x1,y1,...</segs></box></image>`
- text (2020, test images; `0001001.txt` belongs to `1001.jpg`): one line `x1,y1,...,####TEXT` for each text
- text (2017): one line of 32 numbers for each text: the box xmin,ymin,xmax,ymax, and 14 points relative to its corner

All published outlines have 14 points. In the first two formats other numbers of points are read too.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sandglass.core.errors import DatasetError
from sandglass.core.reading import read_bytes
from sandglass.datasets import Options, TextDataset, _text

KIND = TextDataset
class_names = None  # its images have no classes
LINE = "x1,y1,...,####TEXT or 32 numbers"
MARK = "####"
BOX, RELATIVE = 4, 32  # numbers of the box and of the whole line in the format of 2017


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> TextDataset:
    """Read the images that have an annotation file with the same number, or `limit` of them, drawn with `seed`.

    The format of each file is detected. Texts `###` or `*` are ignored regions. `split` has no effect: the folders
    decide it. See `_text.load_folder` for the counts in the protocol and the errors.
    """
    return _text.load_folder(
        "ctw1500", images, annotations, detections, limit, seed,
        key=lambda stem: stem.lstrip("0"), suffixes={".txt", ".xml"}, parse=parse,
    )  # fmt: skip


def parse(path: Path) -> list[_text.Outline]:
    """The outlines and texts of a file in any of the formats. Raises DatasetError with the place of a wrong entry."""
    if path.suffix.lower() == ".xml":
        return _parse_xml(path)
    return [_parse_line(line, f"{path}, line {number}") for number, line in _text.lines(path)]


def _parse_line(line: str, where: str) -> _text.Outline:
    coordinates, mark, text = line.partition(MARK)
    fields = coordinates.rstrip(",").split(",")
    values = _text.numbers(fields, where, line, LINE)
    if mark:
        return _text.points(values), text
    if len(values) != RELATIVE:
        raise DatasetError(f"{where}: it has {len(values)} numbers and no {MARK}, expected {LINE}", "correct the file")
    corner = np.array(values[:2])
    return (np.array(values[BOX:]).reshape(-1, 2) + corner).tolist(), ""


def _parse_xml(path: Path) -> list[_text.Outline]:
    data = read_bytes(path, DatasetError, most=_text.MOST_BYTES)
    # Entities can expand to a text of unlimited size.
    if b"<!ENTITY" in data or b"<!ENTITY".decode().encode("utf-16-le") in data:
        raise DatasetError(f"{path} defines entities, which no annotation needs", "give the annotations as published")
    try:
        boxes = list(ElementTree.fromstring(data).iter("box"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{path} is not an XML file: {error}", "give the annotations as published") from error
    outlines = []
    for number, box in enumerate(boxes, 1):
        segments = box.findtext("segs") or ""
        fields = segments.split(",") if segments.strip() else []
        values = _text.numbers(fields, f"{path}, box {number}", segments, "<segs>x1,y1,...</segs>")
        outlines.append((_text.points(values), box.findtext("label") or ""))
    return outlines


def example(folder: Path) -> Options:
    """Write a few drawn pages; half of the annotations are XML."""
    from sandglass.datasets import synthetic_text
    from sandglass.vision.image import write_image

    drawn = synthetic_text.load(limit=6)
    (folder / "labels").mkdir(parents=True)
    for number, name in enumerate(drawn.image_ids, 1001):
        write_image(folder / "images" / f"{number}.png", drawn.read(name))
        texts = [(",".join(str(round(value)) for point in points for value in point), "###" if ignored else "a word")
                for points, ignored in drawn.texts[name]]  # fmt: skip
        if number % 2:
            boxes = "".join(f"<box><label>{text}</label><segs>{outline}</segs></box>" for outline, text in texts)
            (folder / "labels" / f"{number}.xml").write_text(f"<Annotations><image>{boxes}</image></Annotations>")
        else:
            lines = "\n".join(f"{outline},{MARK}{text}" for outline, text in texts)
            (folder / "labels" / f"000{number}.txt").write_text(lines, encoding="utf-8")
    return {"images": folder / "images", "annotations": folder / "labels"}
