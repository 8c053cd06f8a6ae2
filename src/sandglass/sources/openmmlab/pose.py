"""Read the preprocessing and the decoding of heatmaps into keypoints from mmpose's configs.

In 0.x they are in `data_cfg`, `test_cfg` and the test pipeline. In 1.x they are in the head's codec, the model's data
preprocessor, `test_cfg` and the test pipeline. Defaults are those of mmpose 0.29 and 1.3.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sandglass.core.errors import ConfigError
from sandglass.sources.openmmlab.config import Config, at, settings_at
from sandglass.sources.openmmlab.pipeline import expected, image_input, of_type, only, tested_on

# Datasets with the 17 keypoints of COCO, in the order of COCO.
COCO = ("CocoDataset", "HumanArtDataset", "TopDownCocoDataset", "TopDownOCHumanDataset", "BottomUpCocoDataset")
STEPS: dict[str, Collection[str] | None] = {
    "LoadImage": None,
    "LoadImageFromFile": None,
    "GetBBoxCenterScale": ("padding",),
    "TopDownGetBboxCenterScale": ("padding",),
    "TopdownAffine": ("input_size", "use_udp"),
    "TopDownAffine": ("use_udp",),
    "ToTensor": None,
    "NormalizeTensor": ("mean", "std"),
    "PackPoseInputs": None,
    "Collect": None,
}
PADDING, BLUR = 1.25, 11
BOTTOM_UP_STEPS: dict[str, Collection[str] | None] = {
    **{name: STEPS[name] for name in ("LoadImage", "LoadImageFromFile", "ToTensor", "NormalizeTensor", "Collect")},
    "BottomupResize": ("input_size", "size_factor", "resize_mode"),
    "BottomUpGetImgSize": ("test_scale_factor",),
    "BottomUpResizeAlign": ("transforms",),
    "PackPoseInputs": None,
}
# The grouping of Sandglass. ORDER is the order in which keypoints are assigned to people: from the head down, hips
# before arms.
ORDER = [0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16]
GROUPING = {
    "type": "AssociativeEmbedding",
    "input_size": ...,
    "heatmap_size": ...,
    "sigma": ...,
    "decode_nms_kernel": 5,
    "decode_gaussian_kernel": 3,
    "decode_keypoint_thr": 0.1,
    "decode_tag_thr": 1.0,
    "decode_topk": 30,
    "decode_center_shift": 0.5,
    "decode_keypoint_order": ORDER,
    "decode_max_instances": 30,
}
NEWER_TEST = {
    "multiscale_test": False,
    "flip_test": ...,
    "shift_heatmap": ...,
    "restore_heatmap_size": True,
    "align_corners": False,
}
OLDER_TEST = {
    "num_joints": 17,
    "max_num_people": 30,
    "scale_factor": [1],
    "with_heatmaps": [True],
    "with_ae": [True],
    "project2image": True,
    "align_corners": False,
    "nms_kernel": 5,
    "nms_padding": 2,
    "tag_per_joint": True,
    "detection_threshold": 0.1,
    "tag_threshold": 1,
    "use_detection_val": True,
    "ignore_too_much": False,
    "adjust": True,
    "refine": True,
    "flip_test": ...,
}


def topdown(config: Config, path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """A card's `[input]` and `[decode]`. Raises ConfigError for a decoding that Sandglass does not support."""
    dataset = tested_on(config, path)
    expected(path, "the test dataset", dataset.get("type"), COCO, "keypoints of another order are not decoded")
    steps = of_type(dataset, path, STEPS)
    newer = at(config, "model.head.decoder") is not None
    size, method, blur = _codec(config, path) if newer else _post_process(config, path)
    cut = steps.get("TopdownAffine") or steps.get("TopDownAffine") or {}
    if bool(cut.get("use_udp", False)) != (method == "udp"):
        raise ConfigError(
            f"{path}: only one of the affine crop and the decoding of heatmaps uses UDP",
            "use UDP for both or for neither",
        )
    box = steps.get("GetBBoxCenterScale") or steps.get("TopDownGetBboxCenterScale") or {}
    decode: dict[str, object] = {"padding": box.get("padding", PADDING), "method": method}
    if method != "quarter":
        decode["blur"] = blur
    test = settings_at(config, "model.test_cfg")
    decode["flip_test"] = bool(test.get("flip_test", False))
    if decode["flip_test"]:
        expected(path, "model.test_cfg.flip_mode", test.get("flip_mode", "heatmap"), ("heatmap",))
        decode["flip_shift"] = bool(test.get("shift_heatmap", False))
    return image_input(config, steps, size, path), decode


def _codec(config: Config, path: Path) -> tuple[object, str, object]:
    """The input's (width, height), the decoding method, and the blur kernel in pixels, from a config of 1.x."""
    place, codec = "model.head.decoder", settings_at(config, "model.head.decoder")
    kind = codec.get("type")
    expected(path, f"{place}.type", kind, ("MSRAHeatmap", "UDPHeatmap"))
    expected(path, f"{place}.heatmap_type", codec.get("heatmap_type", "gaussian"), ("gaussian",))
    method = "udp" if kind == "UDPHeatmap" else "dark" if codec.get("unbiased", False) else "quarter"
    return codec.get("input_size"), method, codec.get("blur_kernel_size", BLUR)


def _post_process(config: Config, path: Path) -> tuple[object, str, object]:
    """The input's (width, height), the decoding method, and the blur kernel in pixels, from a config of 0.x."""
    test = settings_at(config, "model.test_cfg")
    expected(path, "model.test_cfg.target_type", test.get("target_type", "GaussianHeatmap"), ("GaussianHeatmap",))
    process = test.get("post_process", "default")
    expected(path, "model.test_cfg.post_process", process, ("default", "unbiased"))
    method = "udp" if test.get("use_udp", False) else "dark" if process == "unbiased" else "quarter"
    return at(config, "data_cfg.image_size"), method, test.get("modulate_kernel", BLUR)


def bottomup(config: Config, path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """A card's `[input]` and `[decode]`. Raises ConfigError for a grouping that Sandglass does not support."""
    dataset = tested_on(config, path)
    expected(path, "the test dataset", dataset.get("type"), COCO, "keypoints of another order are not decoded")
    steps = of_type(dataset, path, BOTTOM_UP_STEPS)
    codec, test = settings_at(config, "model.head.decoder"), settings_at(config, "model.test_cfg")
    size: object
    if codec:
        only(path, "model.head.decoder", {"decode_topk": 20, "decode_center_shift": 0.0, **codec}, GROUPING)
        only(path, "model.test_cfg", test, NEWER_TEST)
        resize = steps.get("BottomupResize", {})
        only(
            path, "BottomupResize", resize, {"type": ..., "input_size": ..., "size_factor": 64, "resize_mode": "expand"}
        )
        size = codec.get("input_size")
    else:
        only(path, "model.test_cfg", test, OLDER_TEST)
        expected(path, "test_scale_factor", at(steps, "BottomUpGetImgSize.test_scale_factor", [1]), ([1],))
        side = at(config, "data_cfg.image_size")
        size = [side, side]
    flip, shift = bool(test.get("flip_test", False)), bool(test.get("shift_heatmap", False))
    return image_input(config, steps, size, path), {"flip_test": flip, "flip_shift": shift}
