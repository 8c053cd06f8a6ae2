"""People in COCO's format: a folder of images, an annotation file, and optionally a detector's boxes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from sandglass.datasets import KeypointDataset
from sandglass.errors import DatasetError
from sandglass.files import read_json, sha256
from sandglass.vision.image import read_image


def load(
    images: Path | None = None,
    annotations: Path | None = None,
    detections: Path | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
) -> KeypointDataset:
    """Read the annotations, check them against the images, and draw `limit` images by `seed` where it is given.

    Only images with a usable person (or a detection) have samples. People without keypoints, crowds and boxes without
    area are no samples, as in mmpose; boxes without area are counted in the protocol. `split` does not matter here:
    the files say it. Raises DatasetError for files that are missing or malformed.
    """
    if images is None or annotations is None:
        raise DatasetError("coco-keypoints needs images and annotations", "give the folder and the JSON file")
    if not images.is_dir():
        raise DatasetError(f"there is no folder of images {images}", "check the path")
    coco = _read(annotations)
    found = _read_detections(detections, coco) if detections else None
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    needed = {entry["image_id"] for entry in (coco["annotations"] if found is None else found)}
    coco, subset = _draw(coco, limit, seed) if limit else (coco, f"all {len(coco['images'])} images")
    kept = {image["id"] for image in coco["images"]}
    _require_images(images, [names[i] for i in sorted(needed & kept)], annotations)
    protocol = {
        "dataset": f"coco-keypoints, {annotations.name} ({sha256(annotations)[:8]})",
        "boxes": f"{detections.name} ({sha256(detections)[:8]})" if detections else "ground truth",
        "subset": subset,
    }
    flat = sum(not _has_area(entry) for entry in coco["annotations"])
    if flat:
        protocol["boxes_without_area"] = f"{flat} left out"
    if found is not None:
        found = [entry for entry in found if entry["image_id"] in kept]
    return KeypointDataset("coco-keypoints", coco, lambda index: read_image(images / names[index]), protocol, found)


def clipped_box(box: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    """A box x, y, w, h cut to the pixels 0..width-1 and 0..height-1, as mmpose's dataset does."""
    left, right = (min(max(value, 0), width - 1) for value in (box[0], box[0] + box[2]))
    top, bottom = (min(max(value, 0), height - 1) for value in (box[1], box[1] + box[3]))
    return left, top, right - left, bottom - top


def _has_area(entry: dict[str, Any]) -> bool:
    return bool(entry["bbox"][2] > 0 and entry["bbox"][3] > 0)


def _read(path: Path) -> dict[str, Any]:
    data = read_json(path, DatasetError)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise DatasetError(f"{path} is not a COCO annotation file", "it needs the lists `images` and `annotations`")
    people = [entry for entry in data["annotations"] if entry.get("category_id", 1) == 1]
    for entry in people:
        if len(entry.get("keypoints", [])) != 51 or len(entry.get("bbox", [])) != 4 or "image_id" not in entry:
            raise DatasetError(
                f"{path}: annotation {entry.get('id')} has no image_id, 17 keypoints and bbox",
                "use a file of COCO person keypoints",
            )
    known = {image.get("id") for image in data["images"]}
    if strangers := sorted({entry["image_id"] for entry in people} - known):
        raise DatasetError(
            f"{path}: annotations name image {strangers[0]}, which is not in its images", "mend the file"
        )
    if not any(entry.get("num_keypoints", 1) for entry in people):
        raise DatasetError(f"{path} has no person with keypoints", "use a file of COCO person keypoints")
    return {"info": {}, "images": data["images"], "annotations": people, "categories": data.get("categories", [])}


def _read_detections(path: Path, coco: dict[str, Any]) -> list[dict[str, Any]]:
    data = read_json(path, DatasetError)
    keys = {"image_id", "bbox", "score"}
    if not isinstance(data, list) or not all(isinstance(entry, dict) and keys <= set(entry) for entry in data):
        raise DatasetError(
            f"{path} is not in COCO's result format", "it is a list of image_id, category_id, bbox, score"
        )
    known = {image["id"] for image in coco["images"]}
    people = [e for e in data if e.get("category_id", 1) == 1 and e["image_id"] in known]
    if not people:
        raise DatasetError(f"{path} has no person in the annotated images", "use detections of the same images")
    return people


def _draw(coco: dict[str, Any], limit: int, seed: int) -> tuple[dict[str, Any], str]:
    """Images with people come first in line: a subset of empty images would measure nothing."""
    with_people = {entry["image_id"] for entry in coco["annotations"] if entry.get("num_keypoints", 1)}
    candidates = sorted((image for image in coco["images"] if image["id"] in with_people), key=lambda i: i["id"])
    images = random.Random(seed).sample(candidates, min(limit, len(candidates)))
    kept = {image["id"] for image in images}
    annotations = [entry for entry in coco["annotations"] if entry["image_id"] in kept]
    text = f"{len(images)} of {len(candidates)} images with people, drawn by seed {seed}"
    return {**coco, "images": sorted(images, key=lambda i: i["id"]), "annotations": annotations}, text


def _require_images(folder: Path, names: list[str], annotations: Path) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DatasetError(
            f"{annotations} names {missing[0]}{more}, not in {folder}",
            "give the folder that belongs to the annotations",
        )
