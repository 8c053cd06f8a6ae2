"""Shared by text datasets: a folder of images, a folder of annotation files, and outlines with defects."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from sandglass.core.errors import DatasetError
from sandglass.core.image_ids import Id
from sandglass.core.text_lines import read_lines
from sandglass.datasets import FOR_CALIBRATION, Conditions, TextDataset, subset
from sandglass.vision import polygon
from sandglass.vision.image import read_image
from sandglass.vision.polygon import AnnotatedText

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
MOST_BYTES = 1 << 20  # size of the annotations of one image, at most; the largest published file has 20,000 bytes
IGNORED = {"###", "*"}  # texts of regions that do not count
CROSSED = "crosses itself"  # the problem of an outline that is kept

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
    """A dataset of the images that have an annotation file, or of `limit` of them, drawn with `seed`.

    An image and a file belong together if `key` gives the same for their names without suffix. `parse` returns the
    outlines in a file, each with its text. An outline that crosses itself is kept, since the area inside counts; an
    outline without area is left out. Both are counted in the protocol. It also counts images without annotations,
    annotations without images, and files with the same key as others, which are ambiguous.

    Raises DatasetError for folders that are missing or do not belong together, and for the errors of `parse`.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "use 1 or more, or no limit for all")
    if detections is not None:
        raise DatasetError(f"{name} takes no detections: texts are detected in whole images", "leave them out")
    if images is None or annotations is None:
        raise DatasetError(
            f"{name} needs images and annotations",
            f"give the folder of each; {FOR_CALIBRATION}",
        )
    pictures, files = _files(images, SUFFIXES, key), _files(annotations, suffixes, key)
    both = [name for name in pictures if name in files]
    paired = {name: (pictures[name][0], files[name][0]) for name in both if len(pictures[name] + files[name]) == 2}
    if not paired:
        raise DatasetError(
            f"no image in {images} has an annotation in {annotations}",
            f"give the folder of images, and the folder with their {' or '.join(sorted(suffixes))} files",
        )
    drawn = set(random.Random(seed).sample(list(paired), min(limit or len(paired), len(paired))))
    places: dict[Id, Path] = {image.stem: image for name, (image, _) in paired.items() if name in drawn}
    outlines = {image.stem: parse(file) for name, (image, file) in paired.items() if name in drawn}
    protocol: Conditions = {
        "dataset": name,
        **subset(len(drawn), len(paired), "images", f"drawn with seed {seed}"),
        **_left_out("images without annotation", _count(pictures, pictures.keys() - files.keys())),
        **_left_out("annotations without image", _count(files, files.keys() - pictures.keys())),
        **_left_out("images and annotations of one name", _count(pictures, set(both) - paired.keys())),
        **_defects(outlines),
    }
    texts: dict[Id, list[AnnotatedText]] = {
        image: [(points, text.strip() in IGNORED) for points, text in texts_of_image if _usable(points)]
        for image, texts_of_image in outlines.items()
    }
    return TextDataset(name, texts, lambda image: read_image(places[image], upright=False), protocol)


def numbers(values: Sequence[str], where: str, line: str, expected: str) -> list[float]:
    """The fields of a line as numbers. Raises DatasetError with the place, the line and the expected format."""
    try:
        coordinates = [float(value) for value in values]
        if all(abs(value) < float("inf") for value in coordinates):  # false for NaN too
            return coordinates
    except ValueError:
        pass
    raise DatasetError(f"{where}: {line[:60]!r} is not {expected}", "give the annotations as they are published")


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not empty, each with its number."""
    return read_lines(path, DatasetError, MOST_BYTES)


def points(values: Sequence[float]) -> list[list[float]]:
    """x, y, x, y, ... as points; an x at the end without a y is dropped."""
    return [list(pair) for pair in zip(values[::2], values[1::2], strict=False)]


def _files(folder: Path, suffixes: set[str], key: Callable[[str], str]) -> dict[str, list[Path]]:
    """The files of a folder by the key of their names, in the order of the numbers in the names."""
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}", "check the path")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (len(path.stem), path.name)):
        if path.suffix.lower() in suffixes and path.is_file():
            files.setdefault(key(path.stem), []).append(path)
    return files


def _count(files: dict[str, list[Path]], names: Collection[str]) -> int:
    return sum(len(files[name]) for name in names)


def _usable(outline: list[list[float]]) -> bool:
    return polygon.problem(outline) in ("", CROSSED)


def _defects(outlines: dict[str, list[Outline]]) -> dict[str, str]:
    """The entry of the protocol for outlines with defects; empty if there are none."""
    counts = Counter(polygon.problem(points) for texts in outlines.values() for points, _ in texts)
    left_out = [f"{count} {problem} (left out)" for problem, count in sorted(counts.items())
                if problem and problem != CROSSED]  # fmt: skip
    crossed = [f"{counts[CROSSED]} cross themselves (kept)"] if counts[CROSSED] else []
    return {"polygons": ", ".join(left_out + crossed)} if left_out or crossed else {}


def _left_out(what: str, count: int) -> dict[str, str]:
    return {what: f"{count} left out"} if count else {}
