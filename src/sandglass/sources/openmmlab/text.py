"""Read the preprocessing (the size of a page) and the decoding of maps into texts from mmocr's configs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from sandglass.core.errors import ConfigError
from sandglass.sources.openmmlab.config import Config, at, number_at, settings_at
from sandglass.sources.openmmlab.pipeline import FIX, expected, image_input, of_type, only, tested_on

MULTIPLE = 32
WIDEST = 16 / 9  # aspect ratio of the input for pages whose long side is not limited
STEPS: dict[str, Collection[str] | None] = {
    "LoadImageFromFile": None,
    "LoadOCRAnnotations": None,
    "FixInvalidPolygon": None,
    "ShortScaleAspectJitter": ("short_size", "scale_divisor", "ratio_range", "aspect_ratio_range"),
    "Resize": ("scale", "keep_ratio"),
    "MultiScaleFlipAug": ("img_scale", "flip", "transforms"),
    "Normalize": ("mean", "std", "to_rgb"),
    "Pad": ("size_divisor",),
    "ImageToTensor": None,
    "PackTextDetInputs": None,
    "Collect": None,
}
# By type: the decoder of Sandglass, its settings by their name in configs, and the settings with a fixed value.
POSTPROCESSORS: dict[str, tuple[str, dict[str, str], dict[str, object]]] = {
    "PANPostprocessor": (
        "panet",
        {
            "text_repr_type": "outline",
            "score_threshold": "box",
            "min_text_confidence": "text",
            "min_kernel_confidence": "kernel",
            "distance_threshold": "distance",
            "min_text_area": "area",
        },
        {"downsample_ratio": 0.25},
    ),
    "TextSnakePostprocessor": (
        "textsnake",
        {
            "min_center_region_confidence": "center",
            "min_center_area": "area",
            "disk_overlap_thr": "overlap",
            "radius_shrink_ratio": "grow",
        },
        {"text_repr_type": "poly", "min_text_region_confidence": 0.6},
    ),
}
OUTLINES = {"quad": "quad", "poly": "polygon"}


def detection(config: Config, path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """A card's `[input]` and `[decode]`. Raises ConfigError for a setting that Sandglass does not support."""
    steps = of_type(tested_on(config, path), path, STEPS)
    expected(path, "Pad.size_divisor", at(steps, "Pad.size_divisor", MULTIPLE), (MULTIPLE,))
    divisor = at(config, "model.data_preprocessor.pad_size_divisor", MULTIPLE)
    expected(path, "model.data_preprocessor.pad_size_divisor", divisor, (MULTIPLE,))
    if "ShortScaleAspectJitter" in steps:
        size, longest = _by_short_side(steps["ShortScaleAspectJitter"], path)
    else:
        size, longest = _by_both_sides(steps, path)
    decode = _decoding(settings_at(config, "model.det_head.postprocessor"), path)
    if longest != max(size):
        decode["longest"] = longest
    return image_input(config, steps, size, path), decode


def _by_short_side(step: Config, path: Path) -> tuple[tuple[int, int], int]:
    """The input's (width, height), and the longest side of a page, for pages with a fixed short side."""
    for name in ("ratio_range", "aspect_ratio_range"):
        value = step.get(name)
        ratios = tuple(value) if isinstance(value, list) else value
        expected(path, f"ShortScaleAspectJitter.{name}", ratios, ((1.0, 1.0),))
    expected(path, "ShortScaleAspectJitter.scale_divisor", step.get("scale_divisor"), (1,))
    short = number_at(step, "short_size")
    width = _padded(short * WIDEST)
    return (width, _padded(short)), width


def _by_both_sides(steps: Mapping[str, Config], path: Path) -> tuple[tuple[int, int], int]:
    """The input's (width, height), and the longest side of a page, for pages that fit into (long side, short side)."""
    scale = at(steps, "Resize.scale") or at(steps, "MultiScaleFlipAug.img_scale")
    if not isinstance(scale, list | tuple) or len(scale) != 2:
        raise ConfigError(f"{path} does not define the size of a page", FIX)
    expected(path, "Resize.keep_ratio", at(steps, "Resize.keep_ratio"), (True,))
    expected(path, "MultiScaleFlipAug.flip", at(steps, "MultiScaleFlipAug.flip", False), (False,))
    return (_padded(max(scale)), _padded(min(scale))), max(scale)


def _padded(side: float) -> int:
    return -int(-side // MULTIPLE) * MULTIPLE


def _decoding(settings: Config, path: Path) -> dict[str, object]:
    place, kind = "model.det_head.postprocessor", settings.get("type")
    expected(path, f"{place}.type", kind, POSTPROCESSORS)
    decoder, names, fixed = POSTPROCESSORS[str(kind)]
    only(path, place, settings, {"type": ..., **dict.fromkeys(names, ...), **fixed})
    decode = {"decoder": decoder, **{names[name]: value for name, value in settings.items() if name in names}}
    if decoder == "panet":
        outline = decode.get("outline", "poly")  # mmocr's default
        expected(path, f"{place}.text_repr_type", outline, OUTLINES)
        decode["outline"] = OUTLINES[str(outline)]
    return decode
