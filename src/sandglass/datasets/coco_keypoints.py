"""People in COCO's format: a folder of images, an annotation file, and optionally the boxes of a detector."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from os.path import isfile  # unlike Path.is_file it returns False for a name that is too long
from pathlib import Path

from sandglass.core.errors import DatasetError
from sandglass.core.files import sha256, write_json
from sandglass.core.image_ids import id_order
from sandglass.core.json_values import JsonObject
from sandglass.datasets import Conditions, KeypointDataset, Options, subset
from sandglass.datasets._coco_file import read_annotations, read_detections
from sandglass.datasets._photos import load_photos
from sandglass.vision.coco_format import CocoBox, CocoShape, CocoTruth
from sandglass.vision.image import read_image, write_image

KIND = KeypointDataset
class_names = None  # its images have no classes
SHOWN = 3  # missing images that an error names, at most


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> KeypointDataset:
    """Read the annotations, check them against the images, and draw `limit` images with `seed` if it is given.

    Without annotations each whole image is one sample, and no metric can be computed. With annotations only images with
    a usable person, or with a detection, have samples. As in mmpose, people without keypoints, crowds, and boxes
    without area inside the image are not samples. Boxes without area and ambiguous entries (see `_coco_file`) are
    counted in the protocol. `split` has no effect: the files decide it. Raises DatasetError for missing or malformed
    files, and if no box is left.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} images", "use 1 or more, or no limit for all")
    if images is None:
        raise DatasetError("coco-keypoints needs images", "give the folder, and the JSON file of their annotations")
    if not images.is_dir():
        raise DatasetError(f"there is no folder of images {images}", "check the path")
    if annotations is None:
        return _unlabelled(images, detections, limit, seed)
    file = read_annotations(annotations)
    coco = file.coco
    boxes = read_detections(detections, file) if detections else None
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    needed = {entry["image_id"] for entry in (coco["annotations"] if boxes is None else boxes)}
    whole: Conditions = subset(len(coco["images"]), len(coco["images"]), "images", "")
    coco, drawn = _draw(coco, limit, seed) if limit else (coco, whole)
    ids = {image["id"] for image in coco["images"]}
    _require_images(images, [names[i] for i in sorted(needed & ids, key=id_order)], annotations)
    protocol: JsonObject = {
        "dataset": f"coco-keypoints, {annotations.name} ({sha256(annotations)[:8]})",
        "boxes": f"{detections.name} ({sha256(detections)[:8]})" if detections else "ground truth",
        **drawn,
        **file.note(),
    }
    if boxes is not None:
        boxes = [entry for entry in boxes if entry["image_id"] in ids]
    regions = _regions(coco, boxes)
    flat = sum(not has_area(region) for region in regions)
    if flat == len(regions):
        raise DatasetError(
            f"{detections or annotations} has no box with an area in {drawn['subset']}",
            "write boxes as x, y, width, height in pixels of their image",
        )
    if flat:
        protocol["boxes_without_area"] = f"{flat} left out"
    return KeypointDataset("coco-keypoints", coco, lambda index: read_image(images / names[index]), protocol, boxes)


def _unlabelled(images: Path, detections: Path | None, limit: int | None, seed: int) -> KeypointDataset:
    """A folder of images without labels, with each whole image as a sample: enough for calibration and fidelity."""
    if detections is not None:
        raise DatasetError(f"{detections} has ids of images, which annotations define", "give --annotations too")
    return replace(load_photos(KeypointDataset, images, limit, seed), name="coco-keypoints")


def example(folder: Path) -> Options:
    """Write a few drawn people, and their boxes as those of a detector."""
    from sandglass.datasets import synthetic_people

    drawn = synthetic_people.load(limit=6)
    for image in drawn.coco["images"]:
        image["file_name"] += ".png"
        write_image(folder / "images" / image["file_name"], drawn.read(image["id"]))
    boxes = [
        {"image_id": person["image_id"], "category_id": person["category_id"], "bbox": person["bbox"], "score": 0.9}
        for person in drawn.coco["annotations"]
    ]
    write_json(folder / "annotations.json", drawn.coco)
    write_json(folder / "detections.json", boxes)
    return {
        "images": folder / "images",
        "annotations": folder / "annotations.json",
        "detections": folder / "detections.json",
    }


def is_sample(entry: CocoShape) -> bool:
    """Whether an annotated person is a sample: it has keypoints and is not a crowd, as in mmpose."""
    return bool(entry["num_keypoints"] and not entry["iscrowd"] and any(entry["keypoints"]))


def clipped_box(box: Sequence[float], width: float, height: float) -> tuple[float, float, float, float]:
    """A box (x, y, width, height) clipped to the pixels 0 .. width - 1 and 0 .. height - 1, as in mmpose's dataset."""
    left, right = (min(max(value, 0), width - 1) for value in (box[0], box[0] + box[2]))
    top, bottom = (min(max(value, 0), height - 1) for value in (box[1], box[1] + box[3]))
    return left, top, right - left, bottom - top


def has_area(box: Sequence[float]) -> bool:
    """Whether a box (x, y, width, height) has a width and a height above 0."""
    return box[2] > 0 and box[3] > 0


def _regions(coco: CocoTruth, detections: list[CocoBox] | None) -> list[Sequence[float]]:
    """The boxes of all possible samples: detections unchanged, annotated people clipped to their image."""
    if detections is not None:
        return [entry["bbox"] for entry in detections]
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    return [clipped_box(e["bbox"], *sizes[e["image_id"]]) for e in coco["annotations"] if is_sample(e)]


def _draw(coco: CocoTruth, limit: int, seed: int) -> tuple[CocoTruth, Conditions]:
    """At most `limit` images with people: a subset of empty images would measure nothing."""
    with_people = {entry["image_id"] for entry in coco["annotations"] if entry["num_keypoints"]}
    candidates = sorted(
        (image for image in coco["images"] if image["id"] in with_people), key=lambda i: id_order(i["id"])
    )
    images = random.Random(seed).sample(candidates, min(limit, len(candidates)))
    ids = {image["id"] for image in images}
    annotations = [entry for entry in coco["annotations"] if entry["image_id"] in ids]
    part = subset(len(images), len(candidates), "images with people", f"drawn by seed {seed}")
    return {**coco, "images": images, "annotations": annotations}, part


def _require_images(folder: Path, names: list[str], annotations: Path) -> None:
    missing = [name for name in names if not isfile(folder / name)]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise DatasetError(
            f"{annotations} names {', '.join(missing[:SHOWN])}{more}: {len(missing)} of {len(names)} images are not "
            f"in {folder}",
            "give the folder that belongs to the annotations",
        )
