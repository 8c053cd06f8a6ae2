"""What formats of text datasets share: a folder of images, one of annotation files, and outlines that have defects."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from sandglass.datasets import Text, TextDataset, subset
from sandglass.errors import DatasetError
from sandglass.reading import read_text
from sandglass.vision import polygon
from sandglass.vision.image import read_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MOST_BYTES = 1 << 20  # of the annotations of one image; the largest published have 20,000
IGNORED = {"###", "*"}
CROSSED = "crosses itself"

Outline = tuple[list[list[float]], str]


def load_folder(
    name: str,
    images: Path | None,
    annotations: Path | None,
    detections: Path | None,
    limit: int | None,
    seed: int,
    *,
    key: Callable[[str], str],
    suffixes: set[str],
    parse: Callable[[Path], list[Outline]],
) -> TextDataset:
    """A dataset of the images that have an annotation file, `limit` of them drawn by `seed` where it is given.

    Files belong together when their names without suffix have the same `key`. `parse` gives the outlines in a file,
    each with its text. An outline that crosses itself is kept, as it is scored by what it encloses; one without an area
    is left out. Both are counted in the protocol, as are images without annotation and the reverse.

    Raises DatasetError for folders that are missing or do not belong together.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "give 1 or more, or none for all")
    if detections is not None:
        raise DatasetError(f"{name} takes no detections: text is looked for in whole images", "leave them out")
    if images is None or annotations is None:
        raise DatasetError(f"{name} needs images and annotations", "give the folder of each")
    pictures, files = _files(images, SUFFIXES, key), _files(annotations, suffixes, key)
    paired = [stem for stem in pictures if stem in files]
    if not paired:
        raise DatasetError(
            f"no image in {images} has an annotation in {annotations}",
            f"give the folder of images and that of their {' or '.join(sorted(suffixes))} files",
        )
    drawn = set(random.Random(seed).sample(paired, min(limit or len(paired), len(paired))))
    chosen = [stem for stem in paired if stem in drawn]
    outlines = {pictures[stem].stem: parse(files[stem]) for stem in chosen}
    protocol = {
        "dataset": name,
        **subset(len(chosen), len(paired), "images", f"drawn with seed {seed}"),
        **_left_out("images without annotation", len(pictures) - len(paired)),
        **_left_out("annotations without image", len(files) - len(paired)),
        **_defects(outlines),
    }
    texts: dict[str, list[Text]] = {
        image: [(points, text.strip() in IGNORED) for points, text in found if _usable(points)]
        for image, found in outlines.items()
    }
    places = {pictures[stem].stem: pictures[stem] for stem in chosen}
    return TextDataset(name, texts, lambda image: read_image(places[image], upright=False), protocol)


def numbers(values: Sequence[str], path: Path, line: str, expected: str) -> list[float]:
    """Fields of a line as numbers; raises DatasetError with the line and what was expected of it."""
    try:
        found = [float(value) for value in values]
        if all(abs(value) < float("inf") for value in found):  # NaN is not
            return found
    except ValueError:
        pass
    raise DatasetError(f"{path}: {line[:60]!r} is not {expected}", "give the annotations as they are published")


def lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file that hold something; a byte-order mark is dropped."""
    text = read_text(path, DatasetError, most=MOST_BYTES)
    return [line.strip() for line in text.splitlines() if line.strip()]


def points(values: Sequence[float]) -> list[list[float]]:
    """x, y, x, y, ... as points; a last x without its y is dropped."""
    return [list(pair) for pair in zip(values[::2], values[1::2], strict=False)]


def _files(folder: Path, suffixes: set[str], key: Callable[[str], str]) -> dict[str, Path]:
    """Files of a folder by the key of their names, in the order of the numbers in them."""
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}", "check the path")
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    return {key(path.stem): path for path in sorted(found, key=lambda path: (len(path.stem), path.name))}


def _usable(outline: list[list[float]]) -> bool:
    return polygon.problem(outline) in ("", CROSSED)


def _defects(outlines: dict[str, list[Outline]]) -> dict[str, str]:
    """What is wrong with outlines, for the protocol."""
    found = Counter(polygon.problem(points) for texts in outlines.values() for points, _ in texts)
    told = [f"{count} {problem}" for problem, count in sorted(found.items()) if problem and problem != CROSSED]
    crossed = [f"{found[CROSSED]} cross themselves (kept)"] if found[CROSSED] else []
    return {"polygons": ", ".join([f"{entry} (left out)" for entry in told] + crossed)} if told or crossed else {}


def _left_out(what: str, count: int) -> dict[str, str]:
    return {what: f"{count} left out"} if count else {}
