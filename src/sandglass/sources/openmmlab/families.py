"""Descriptions of the architectures of Sandglass in OpenMMLab's configs, one for each family.

Places are dotted paths below the config's `model`, with the names of the 1.x generation (see `match`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]  # arguments of an architecture; their types depend on the family


@dataclass(frozen=True)
class Only:
    """The supported values at a place. `default` is OpenMMLab's value if the config does not set it."""

    values: tuple[object, ...]
    default: object = ...


@dataclass(frozen=True)
class Family:
    """One family of networks.

    `model` and `task` are the fields of the card. `types` has, for each part of the model, the names of its type in
    both generations. `arguments` has, for each argument of the architecture, its place in the config, or several places
    for a list. `defaults` are arguments that the config may leave out. `only` has rules for other places: supported
    values, or a function from the arguments to the single supported value.
    """

    model: str
    task: str
    types: Mapping[str, tuple[str, ...]]
    arguments: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    defaults: Arguments = field(default_factory=dict)
    only: Mapping[str, Only | Callable[[Arguments], object]] = field(default_factory=dict)


# A head with a single 1x1 convolution, in both generations; and one for the keypoints of COCO.
ONE_CONVOLUTION = {
    "head.num_deconv_layers": Only((0,)),
    "head.extra.final_conv_kernel": Only((1,)),
    "head.deconv_out_channels": Only((None,)),
}
KEYPOINTS = {"head.out_channels": Only((17,)), **ONE_CONVOLUTION}
NORM = {"backbone.norm_cfg.type": Only(("BN", "SyncBN"))}


def _stages(arguments: Arguments) -> dict[str, object]:
    """The `extra` of an HRNet with these arguments."""
    width, modules, blocks = arguments["width"], arguments["modules"], arguments["blocks"]
    stem = {"num_modules": 1, "num_branches": 1, "block": "BOTTLENECK"}
    stages: dict[str, object] = {
        "stage1": {**stem, "num_blocks": [blocks], "num_channels": [arguments["stem_channels"]]}
    }
    for count, repeated in enumerate(modules, 2):
        stages[f"stage{count}"] = {
            "num_modules": repeated,
            "num_branches": count,
            "block": "BASIC",
            "num_blocks": [blocks] * count,
            "num_channels": [width << level for level in range(count)],
        }
    return stages


HRNET: dict[str, str | tuple[str, ...]] = {
    "width": "backbone.extra.stage2.num_channels.0",
    "modules": tuple(f"backbone.extra.stage{i}.num_modules" for i in (2, 3, 4)),
    "blocks": "backbone.extra.stage2.num_blocks.0",
    "stem_channels": "backbone.extra.stage1.num_channels.0",
}

CLASSIFIER = {
    "": ("ImageClassifier",),
    "neck": ("GlobalAveragePooling",),
    "head": ("LinearClsHead", "MultiLabelLinearClsHead"),  # they differ in the training only
}
STAGES_OF_RESNET = {
    **NORM,
    "backbone.num_stages": Only((4,)),
    "backbone.out_indices": Only(([0, 1, 2, 3],)),
    "backbone.base_channels": Only((64,)),
    "backbone.avg_down": Only((False,)),
}
RESNET: dict[str, str | tuple[str, ...]] = {"depth": "backbone.depth", "classes": "head.num_classes"}
RESNET_ONLY: dict[str, Only | Callable[[Arguments], object]] = {
    **NORM,
    "backbone.num_stages": Only((4,)),
    "backbone.out_indices": Only(([3],)),
    "backbone.style": Only(("pytorch",)),
    "backbone.stem_channels": Only((64,)),
    "backbone.base_channels": Only((64,)),
    "backbone.deep_stem": Only((False,)),
    "backbone.avg_down": Only((False,)),
    "head.in_channels": lambda arguments: 512 if arguments["depth"] < 50 else 2048,
}

FAMILIES = (
    Family(
        "hourglass",
        "topdown-pose",
        {
            "": ("TopDown", "TopdownPoseEstimator"),
            "backbone": ("HourglassNet",),
            "head": ("TopdownHeatmapMultiStageHead", "CPMHead"),
        },
        {
            "stage_channels": "backbone.stage_channels",
            "stage_blocks": "backbone.stage_blocks",
            "feature_channels": "backbone.feat_channel",
        },
        only={
            **NORM,
            **KEYPOINTS,
            "backbone.num_stacks": Only((1,), default=2),
            "backbone.downsample_times": lambda arguments: len(arguments.get("stage_channels", range(6))) - 1,
            "head.in_channels": lambda arguments: arguments.get("feature_channels", 256),
            "head.num_stages": Only((1,), default=1),
        },
    ),
    Family(
        "hrnet",
        "topdown-pose",
        {
            "": ("TopDown", "TopdownPoseEstimator"),
            "backbone": ("HRNet",),
            "head": ("TopdownHeatmapSimpleHead", "HeatmapHead"),
        },
        HRNET,
        only={
            **NORM,
            **KEYPOINTS,
            "backbone.in_channels": Only((3,)),
            "backbone.extra": _stages,
            "head.in_channels": lambda arguments: arguments["width"],
        },
    ),
    Family(
        "hrnet-ae",
        "bottomup-pose",
        {
            "": ("AssociativeEmbedding", "BottomupPoseEstimator"),
            "backbone": ("HRNet",),
            "head": ("AESimpleHead", "AssociativeEmbeddingHead"),
        },
        HRNET,
        only={
            **NORM,
            **ONE_CONVOLUTION,
            "backbone.in_channels": Only((3,)),
            "backbone.extra": _stages,
            "head.in_channels": lambda arguments: arguments["width"],
            "head.num_joints": Only((17,)),
            "head.num_keypoints": Only((17,)),
            "head.tag_dim": Only((1,)),
            "head.tag_per_joint": Only((True,)),
            "head.tag_per_keypoint": Only((True,)),
        },
    ),
    Family(
        "hrnet-cls",
        "classification",
        {"": CLASSIFIER[""], "backbone": ("HRNet",), "head": CLASSIFIER["head"], "neck.0": ("HRFuseScales",)},
        {"width": "neck.0.in_channels.0", "classes": "head.num_classes"},
        only={
            **NORM,
            "backbone.arch": lambda arguments: f"w{arguments['width']}",
            "neck": lambda arguments: [
                {"type": "HRFuseScales", "in_channels": [arguments["width"] << level for level in range(4)]},
                {"type": "GlobalAveragePooling"},
            ],
            "head.in_channels": Only((2048,)),
        },
    ),
    Family("resnet", "classification", {**CLASSIFIER, "backbone": ("ResNet",)}, RESNET, only=RESNET_ONLY),
    Family(
        "resnet",
        "classification",
        {**CLASSIFIER, "backbone": ("ResNet_CIFAR",)},
        RESNET,
        {"cifar": True},
        RESNET_ONLY,
    ),
    Family(
        "resnet",
        "classification",
        {**CLASSIFIER, "backbone": ("ResNeXt",)},
        {**RESNET, "groups": "backbone.groups", "group_width": "backbone.width_per_group"},
        {"groups": 32, "group_width": 4},
        RESNET_ONLY,
    ),
    Family(
        "mobilenet-v2",
        "classification",
        {**CLASSIFIER, "backbone": ("MobileNetV2",)},
        {"width": "backbone.widen_factor", "classes": "head.num_classes"},
        only={
            **NORM,
            "backbone.out_indices": Only(([7],)),
            "head.in_channels": lambda arguments: round(1280 * max(1.0, arguments.get("width", 1.0))),
        },
    ),
    Family(
        "panet",
        "text-detection",
        {"": ("PANet",), "backbone": ("mmdet.ResNet",), "neck": ("FPEM_FFM",), "det_head": ("PANHead",)},
        {
            "depth": "backbone.depth",
            "deep_stem": "backbone.stem_channels",
            "neck_channels": "neck.conv_out",
            "repeats": "neck.fpem_repeat",
        },
        {"deep_stem": 64},
        {
            **STAGES_OF_RESNET,
            "backbone.depth": Only((18, 34)),
            "backbone.style": Only(("pytorch", "caffe")),  # both are equal for blocks of two convolutions
            "backbone.deep_stem": Only((True,), default=False),
            "neck.in_channels": Only(([64, 128, 256, 512],)),
            "det_head.in_channels": lambda arguments: [arguments.get("neck_channels", 128)] * 4,
            "det_head.hidden_dim": lambda arguments: arguments.get("neck_channels", 128),
            "det_head.out_channel": Only((6,)),
            "det_head.out_channels": Only((6,)),
        },
    ),
    Family(
        "textsnake",
        "text-detection",
        {"": ("TextSnake",), "backbone": ("mmdet.ResNet",), "neck": ("FPN_UNet",), "det_head": ("TextSnakeHead",)},
        {"depth": "backbone.depth", "neck_channels": "neck.out_channels"},
        only={
            **STAGES_OF_RESNET,
            "backbone.depth": Only((50, 101, 152)),
            "backbone.style": Only(("caffe",), default="pytorch"),
            "backbone.deep_stem": Only((False,)),
            "backbone.stem_channels": Only((64,)),
            "neck.in_channels": Only(([256, 512, 1024, 2048],)),
            "det_head.in_channels": lambda arguments: arguments.get("neck_channels", 32),
            "det_head.out_channels": Only((5,)),
        },
    ),
)
