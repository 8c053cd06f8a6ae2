"""Read the preprocessing and the names of classes from configs of mmcls 0.x and mmpretrain 1.x."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sandglass.sources.openmmlab.config import Config, at
from sandglass.sources.openmmlab.pipeline import expected, image_input, of_type, tested_on

RESIZE = ("scale", "size", "edge", "backend", "interpolation")
STEPS: dict[str, Collection[str] | None] = {
    "LoadImageFromFile": None,
    "Resize": RESIZE,
    "ResizeEdge": RESIZE,
    "CenterCrop": ("crop_size",),
    "Normalize": ("mean", "std", "to_rgb"),
    "ImageToTensor": None,
    "PackInputs": None,
    "Collect": None,
}
LIBRARIES = {"cv2": "opencv", "pillow": "pillow"}
NAMED = {"ImageNet": ("imagenet", 1000), "CIFAR10": ("cifar10", 10)}  # datasets with known names of classes
CIFAR, CIFAR_SIDE = ("CIFAR10", "CIFAR100"), 32  # these images are read as RGB and not resized


def classification(config: Config, path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """A card's `[input]` and `[decode]`. Raises ConfigError for a setting that Sandglass does not support."""
    dataset = tested_on(config, path)
    steps, kind = of_type(dataset, path, STEPS), dataset.get("type")
    decode: dict[str, object] = {}
    resize = steps.get("ResizeEdge") or steps.get("Resize")
    side: object = CIFAR_SIDE if kind in CIFAR else None
    if resize is not None:
        short, side = _sides(resize, path)
        if short is not None:
            decode["short_side"] = short
        backend = resize.get("backend", "cv2")
        expected(path, "the backend of the resizing", backend, LIBRARIES)
        decode |= {"interpolation": resize.get("interpolation", "bilinear"), "library": LIBRARIES[str(backend)]}
    side = steps["CenterCrop"]["crop_size"] if "CenterCrop" in steps else side
    name, classes = NAMED.get(str(kind), ("", 0))
    if classes == at(config, "model.head.num_classes"):
        decode["classes"] = name
    size = [side, side] if isinstance(side, int) else side
    return image_input(config, steps, size, path, read_as_rgb=kind in CIFAR), decode


def _sides(resize: Config, path: Path) -> tuple[object, object]:
    """(short side, None) if the aspect ratio is kept, otherwise (None, size)."""
    scale = resize.get("scale", resize.get("size"))
    if resize["type"] == "ResizeEdge":
        expected(path, "the edge of ResizeEdge", resize.get("edge", "short"), ("short",))
        return scale, None
    if isinstance(scale, list | tuple) and len(scale) == 2 and scale[1] == -1:
        return scale[0], None
    return None, scale
