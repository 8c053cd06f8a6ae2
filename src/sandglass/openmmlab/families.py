"""How the architectures of Sandglass are written in OpenMMLab's configs: one entry a family, as data.

Places are dotted and below the config's `model`, under the names of the 1.x generation (see `newer_names`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandglass import discover
from sandglass.errors import ConfigError
from sandglass.openmmlab.config import at

PARTS = ("backbone", "neck", "head", "det_head")
OLDER_NAMES = {"keypoint_head": "head", "bbox_head": "det_head"}
# What matters for training only, or is read as decoding by the task.
IGNORED = {
    "type", "init_cfg", "pretrained", "frozen_stages", "norm_eval", "with_cp", "zero_init_residual", "requires_grad",
    "loss", "loss_keypoint", "keypoint_loss", "tag_loss", "module_loss", "with_ae_loss", "topk", "cal_acc",
    "decoder", "postprocessor",
}  # fmt: skip


@dataclass(frozen=True)
class Only:
    """What an architecture has at a place: one of some values. `default` is OpenMMLab's where the config is silent."""

    values: tuple[Any, ...]
    default: Any = ...


@dataclass(frozen=True)
class Family:
    """One kind of network.

    `model` and `task` are a card's. `types` are the names that make a config one of the family, by part, in both
    generations. `arguments` are those of the architecture, each from a place, or a list from several, and `defaults`
    those that the config need not say. `only` says what the architecture has besides: values, or what follows from the
    arguments.
    """

    model: str
    task: str
    types: Mapping[str, tuple[str, ...]]
    arguments: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Only | Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)


# A head of one 1x1 convolution, of the older and of the newer generation; for COCO's keypoints.
ONE_CONVOLUTION = {
    "head.num_deconv_layers": Only((0,)),
    "head.extra.final_conv_kernel": Only((1,)),
    "head.deconv_out_channels": Only((None,)),
}
KEYPOINTS = {"head.out_channels": Only((17,)), **ONE_CONVOLUTION}
NORM = {"backbone.norm_cfg.type": Only(("BN", "SyncBN"))}


def _stages(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """An HRNet's `extra`."""
    width, modules, blocks = arguments["width"], arguments["modules"], arguments["blocks"]
    stem = {"num_modules": 1, "num_branches": 1, "block": "BOTTLENECK"}
    found = {"stage1": {**stem, "num_blocks": [blocks], "num_channels": [arguments["stem_channels"]]}}
    for count, repeated in enumerate(modules, 2):
        found[f"stage{count}"] = {
            "num_modules": repeated,
            "num_branches": count,
            "block": "BASIC",
            "num_blocks": [blocks] * count,
            "num_channels": [width << level for level in range(count)],
        }
    return found


HRNET: dict[str, str | tuple[str, ...]] = {
    "width": "backbone.extra.stage2.num_channels.0",
    "modules": tuple(f"backbone.extra.stage{i}.num_modules" for i in (2, 3, 4)),
    "blocks": "backbone.extra.stage2.num_blocks.0",
    "stem_channels": "backbone.extra.stage1.num_channels.0",
}

CLASSIFIER = {
    "": ("ImageClassifier",),
    "neck": ("GlobalAveragePooling",),
    "head": ("LinearClsHead", "MultiLabelLinearClsHead"),  # they differ in how classes are trained, and share logits
}
RESNET: dict[str, str | tuple[str, ...]] = {"depth": "backbone.depth", "classes": "head.num_classes"}
RESNET_ONLY: dict[str, Only | Callable[[Mapping[str, Any]], Any]] = {
    **NORM,
    "backbone.num_stages": Only((4,)),
    "backbone.out_indices": Only(([3],)),
    "backbone.style": Only(("pytorch",)),
    "backbone.stem_channels": Only((64,)),
    "backbone.base_channels": Only((64,)),
    "backbone.deep_stem": Only((False,)),
    "backbone.avg_down": Only((False,)),
    "head.in_channels": lambda given: 512 if given["depth"] < 50 else 2048,
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
            "backbone.downsample_times": lambda given: len(given.get("stage_channels", range(6))) - 1,
            "head.in_channels": lambda given: given.get("feature_channels", 256),
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
            "head.in_channels": lambda given: given["width"],
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
            "head.in_channels": lambda given: given["width"],
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
            "backbone.arch": lambda given: f"w{given['width']}",
            "neck": lambda given: [
                {"type": "HRFuseScales", "in_channels": [given["width"] << level for level in range(4)]},
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
            "head.in_channels": lambda given: round(1280 * max(1.0, given.get("width", 1.0))),
        },
    ),
)


def newer_names(model: Mapping[str, Any]) -> dict[str, Any]:
    """A config's `model` under 1.x names: 0.x says `keypoint_head` and `bbox_head`, as its checkpoints do."""
    return {OLDER_NAMES.get(key, key): value for key, value in model.items()}


def family_of(model: Mapping[str, Any], path: object) -> tuple[Family, dict[str, Any]]:
    """The family of a config's `model`, and the arguments of its architecture.

    Raises ConfigError for a family that Sandglass lacks, naming those it has, and for a member that differs from what
    the architecture is.
    """
    for family in FAMILIES:
        if all(_type(model, part) in names for part, names in family.types.items()):
            return family, _arguments(family, model, path)
    told = " with ".join(kind for part in ("", *PARTS) if (kind := _type(model, part)))
    raise ConfigError(f"{path} is a {told or 'model of no type'}, which Sandglass lacks", f"it has {known()}")


def known() -> str:
    """The families, and how configs call their parts."""
    have = discover.names("models")
    return "; ".join(
        f"{family.model} ({' with '.join(' or '.join(names) for part, names in family.types.items() if part)})"
        for family in FAMILIES
        if family.model in have
    )


def _type(model: Mapping[str, Any], part: str) -> str:
    found = at(model, f"{part}.type" if part else "type", "")
    return found if isinstance(found, str) else ""


def _arguments(family: Family, model: Mapping[str, Any], path: object) -> dict[str, Any]:
    """Arguments that the config gives, checked; where it is silent, OpenMMLab's defaults are the architecture's."""
    found: dict[str, Any] = dict(family.defaults)
    for name, place in family.arguments.items():
        value = _plain(at(model, place, ...) if isinstance(place, str) else [at(model, one, ...) for one in place])
        if value is not ...:
            found[name] = value
    try:
        checks = {place: Only((rule(found),)) if callable(rule) else rule for place, rule in family.only.items()}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: model is no whole {family.model}: there is no {error}", "complete it") from error
    for place, rule in checks.items():
        value = _plain(at(model, place, rule.default))
        if value is not ... and value not in rule.values:
            expected = " or ".join(repr(one) for one in rule.values)
            raise ConfigError(
                f"{path}: model.{place} is {_told(value)}, and the {family.model} of Sandglass has {expected}",
                "its checkpoint would not fit",
            )
    taken = {part for place in family.arguments.values() for part in ([place] if isinstance(place, str) else place)}
    for place in _places({part: model[part] for part in PARTS if model.get(part)}, {*taken, *checks}):
        if place.split(".")[0] not in family.types or place.rpartition(".")[2] not in IGNORED:
            raise ConfigError(
                f"{path}: model.{place} is {_told(at(model, place))}, which the {family.model} of Sandglass lacks",
                "its checkpoint would not fit",
            )
    return found


def _places(tree: Any, known: set[str], above: str = "") -> Iterator[str]:
    """Places of values that no rule knows; a place under one that is known, or is ignored, is known too."""
    for key, value in tree.items():
        place = f"{above}{key}"
        if place in known:
            continue
        if isinstance(value, dict) and key not in IGNORED and any(value):
            yield from _places(value, known, f"{place}.")
        elif not any(one.startswith(f"{place}.") for one in known):
            yield place


def _plain(value: Any) -> Any:
    """Tuples as lists, as TOML and JSON have them; `...` where a part is missing."""
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return ... if ... in parts else parts
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
