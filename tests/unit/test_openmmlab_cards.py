"""Configs of both generations of OpenMMLab become the cards that the zoo has, and others are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandglass.cli.main import main
from sandglass.core import discover
from sandglass.core.errors import ConfigError
from sandglass.sources.load_card import load_card
from sandglass.sources.openmmlab.families import FAMILIES

# Written for these tests, with the structure, names and values of OpenMMLab's configs.
STAGES = """
widths = [{width} * 2**0, {width} * 2**1, {width} * 2**2, {width} * 2**3]
extra = dict(
    stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(4, ), num_channels=(64, )),
    stage2=dict(num_modules=1, num_branches=2, block='BASIC', num_blocks=(4, 4), num_channels=widths[:2]),
    stage3=dict(num_modules=4, num_branches=3, block='BASIC', num_blocks=(4, 4, 4), num_channels=widths[:3]),
    stage4=dict(num_modules=3, num_branches=4, block='BASIC', num_blocks=(4, 4, 4, 4), num_channels=widths))
"""
HOURGLASS = "dict(type='HourglassNet', num_stacks=1)"
HRNET = "dict(type='HRNet', in_channels=3, extra=extra, init_cfg=dict(type='Pretrained', checkpoint='a.pth'))"
NORM_255 = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]"
NORM_1 = "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]"

TOP_DOWN_0 = """
model = dict(type='TopDown', pretrained=None, backbone={backbone},
    keypoint_head=dict(type='{head}', in_channels={width}, out_channels=17, num_deconv_layers=0, {more}
        extra=dict(final_conv_kernel=1), loss_keypoint=dict(type='JointsMSELoss')),
    test_cfg=dict(flip_test=True, post_process='{process}', shift_heatmap={shift}, modulate_kernel={blur}{udp}))
data_cfg = dict(image_size=[{w}, {h}])
val_pipeline = [dict(type='LoadImageFromFile'), dict(type='TopDownGetBboxCenterScale', padding=1.25),
    dict(type='TopDownAffine'{udp}), dict(type='ToTensor'), dict(type='NormalizeTensor', {norm}),
    dict(type='Collect', keys=['img'])]
data = dict(test=dict(type='TopDownCocoDataset', pipeline=val_pipeline, dataset_info={{{{_base_.dataset_info}}}}))
"""
TOP_DOWN_1 = """
codec = dict(type='{codec}', input_size=({w}, {h}), heatmap_size=({w} // 4, {h} // 4), sigma=2{unbiased})
model = dict(type='TopdownPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', {norm}, bgr_to_rgb=True), backbone={backbone},
    head=dict(type='{head}', in_channels={width}, out_channels=17, deconv_out_channels=None, {more}
        loss=dict(type='KeypointMSELoss'), decoder=codec),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap={shift}))
val_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'), dict(type='TopdownAffine', input_size=codec['input_size']{udp}),
    dict(type='PackPoseInputs')]))
test_dataloader = val_dataloader
"""
CLASSIFIER_0 = """
norm = dict({norm}, to_rgb={to_rgb})
model = dict(type='ImageClassifier', backbone={backbone}, neck={neck},
    head=dict(type='LinearClsHead', num_classes={classes}, in_channels={width}, loss=dict(type='CrossEntropyLoss')))
data = dict(test=dict(type='{dataset}', pipeline=[{steps} dict(type='Normalize', **norm),
    dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])]))
"""
CLASSIFIER_1 = """
data_preprocessor = dict(num_classes={classes}, {norm}, to_rgb={to_rgb})
model = dict(type='ImageClassifier', backbone={backbone}, neck={neck},
    head=dict(type='LinearClsHead', num_classes={classes}, in_channels={width}, topk=(1, 5)))
test_dataloader = dict(dataset=dict(type='{dataset}', pipeline=[{steps} dict(type='PackInputs')]))
"""
POOL = "dict(type='GlobalAveragePooling')"
FUSE = "[dict(type='HRFuseScales', in_channels=(18, 36, 72, 144)), dict(type='GlobalAveragePooling')]"
CROP = "dict(type='LoadImageFromFile'), dict({resize}{backend}), dict(type='CenterCrop', crop_size=224),"
RESIZE_0, RESIZE_1 = "type='Resize', size=(256, -1)", "type='ResizeEdge', scale=256, edge='short'"
CIFAR_NORM = "mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255]"


def top_down(template: str, head: str, backbone: str = HRNET, width: int = 32, size: tuple[int, int] = (256, 192),
             method: str = "quarter", blur: int = 11, more: str = "") -> str:  # fmt: skip
    """A config of top-down pose."""
    above = "_base_ = 'info.py'\n" + (STAGES.format(width=width) if backbone is HRNET else "")
    return above + template.format(
        head=head, backbone=backbone, width=width, h=size[0], w=size[1], more=more, blur=blur, shift=method != "udp",
        norm=NORM_1 if template is TOP_DOWN_0 else NORM_255, process="unbiased" if method == "dark" else "default",
        udp=", use_udp=True" if method == "udp" else "", unbiased=", unbiased=True" if method == "dark" else "",
        codec="UDPHeatmap" if method == "udp" else "MSRAHeatmap",
    )  # fmt: skip


def classifier(template: str, backbone: str, width: int, neck: str = POOL, library: str = "pillow") -> str:
    """A config of classification on ImageNet."""
    backend = ", backend='pillow'" if library == "pillow" else ""
    steps = CROP.format(resize=RESIZE_0 if template is CLASSIFIER_0 else RESIZE_1, backend=backend)
    return template.format(norm=NORM_255, to_rgb=True, backbone=backbone, neck=neck, classes=1000, width=width,
                           dataset="ImageNet", steps=steps)  # fmt: skip


def cifar(template: str, depth: int, width: int) -> str:
    """A config of classification on CIFAR-10, whose images are not resized."""
    backbone = f"dict(type='ResNet_CIFAR', depth={depth}, num_stages=4, out_indices=(3, ), style='pytorch')"
    return template.format(norm=CIFAR_NORM, to_rgb=False, backbone=backbone, neck=POOL, classes=10, width=width,
                           dataset="CIFAR10", steps="")  # fmt: skip


RESNET = "dict(type='ResNet', depth={}, num_stages=4, out_indices=(3, ), style='pytorch')"
RESNEXT = "dict(type='ResNeXt', depth=50, groups=32, width_per_group=4, style='pytorch')"
HEADS = {TOP_DOWN_0: "TopdownHeatmapSimpleHead", TOP_DOWN_1: "HeatmapHead"}
STACKED = {TOP_DOWN_0: "TopdownHeatmapMultiStageHead", TOP_DOWN_1: "CPMHead"}


def hourglass(template: str) -> str:
    """A config of Hourglass-52."""
    return top_down(template, STACKED[template], HOURGLASS, 256, (256, 256), more="num_stages=1,")


GROUPED_0 = """
model = dict(type='AssociativeEmbedding', backbone={backbone},
    keypoint_head=dict(type='AESimpleHead', in_channels=32, num_joints=17, num_deconv_layers=0, tag_per_joint=True,
        with_ae_loss=[True], extra=dict(final_conv_kernel=1), loss_keypoint=dict(type='MultiLossFactory')),
    test_cfg=dict(num_joints=17, max_num_people=30, scale_factor=[1], with_heatmaps=[True], with_ae=[True],
        project2image=True, align_corners=False, nms_kernel=5, nms_padding=2, tag_per_joint=True,
        detection_threshold=0.1, tag_threshold=1, use_detection_val=True, ignore_too_much=False, adjust=True,
        refine=True, flip_test=True))
data_cfg = dict(image_size=512, base_size=256, heatmap_size=[128])
data = dict(test=dict(type='BottomUpCocoDataset', pipeline=[dict(type='LoadImageFromFile'),
    dict(type='BottomUpGetImgSize', test_scale_factor=[1]),
    dict(type='BottomUpResizeAlign', transforms=[dict(type='ToTensor'), dict(type='NormalizeTensor', {norm})]),
    dict(type='Collect', keys=['img'])]))
"""
GROUPED_1 = """
codec = dict(type='AssociativeEmbedding', input_size=(512, 512), heatmap_size=(128, 128), sigma=2, decode_topk=30,
    decode_center_shift=0.5, decode_max_instances=30,
    decode_keypoint_order=[0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16])
model = dict(type='BottomupPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', {norm}, bgr_to_rgb=True), backbone={backbone},
    head=dict(type='AssociativeEmbeddingHead', in_channels=32, num_keypoints=17, tag_dim=1, tag_per_keypoint=True,
        deconv_out_channels=None, keypoint_loss=dict(type='KeypointMSELoss'),
        tag_loss=dict(type='AssociativeEmbeddingLoss'), decoder=dict(codec, heatmap_size=codec['input_size'])),
    test_cfg=dict(multiscale_test=False, flip_test=True, shift_heatmap=False, restore_heatmap_size=True,
        align_corners=False))
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[dict(type='LoadImage'),
    dict(type='BottomupResize', input_size=codec['input_size'], size_factor=64, resize_mode='expand'),
    dict(type='PackPoseInputs')]))
"""


def grouped(template: str) -> str:
    """A config of associative embedding."""
    norm = NORM_1 if template is GROUPED_0 else NORM_255
    return STAGES.format(width=32) + template.format(backbone=HRNET, norm=norm)


TEXTS_1 = """
model = dict(type='{type}', data_preprocessor=dict(type='TextDetDataPreprocessor', {norm}, bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(type='mmdet.ResNet', num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=-1, {backbone}),
    neck=dict({neck}), det_head=dict({head}, module_loss=dict(type='Loss'), postprocessor=dict({post})))
pipe = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation'), dict({resize}),
    dict(type='LoadOCRAnnotations', with_polygon=True), dict(type='PackTextDetInputs', meta_keys=('img_path', ))]
test = dict(type='OCRDataset', pipeline=None)
test.pipeline = pipe
test_dataloader = dict(dataset=test)
"""
TEXTS_0 = """
model_poly = dict(type='{type}',
    backbone=dict(type='mmdet.ResNet', num_stages=4, out_indices=(0, 1, 2, 3), norm_eval=True, {backbone}),
    neck=dict({neck}), bbox_head=dict({head}, loss=dict(type='Loss'), postprocessor=dict({post})), test_cfg=None)
model = model_poly
norm = dict({norm}, to_rgb=True)
data = dict(test=dict(type='UniformConcatDataset', pipeline=[dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1333, 736), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Normalize', **norm), dict(type='Pad', size_divisor=32),
        dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])])]))
"""
PANET = TEXTS_1.format(
    type="PANet",
    norm=NORM_255,
    backbone="depth=18, stem_channels=128, deep_stem=True, style='pytorch'",
    neck="type='FPEM_FFM', in_channels=[64, 128, 256, 512], fpem_repeat=2",
    head="type='PANHead', in_channels=[128, 128, 128, 128], hidden_dim=128, out_channel=6",
    post="type='PANPostprocessor', text_repr_type='quad'",
    resize="type='ShortScaleAspectJitter', short_size=736, scale_divisor=1, ratio_range=(1.0, 1.0),"
    " aspect_ratio_range=(1.0, 1.0)",
)


def textsnake(template: str) -> str:
    """A config of TextSnake."""
    return template.format(
        type="TextSnake",
        norm=NORM_255,
        backbone="depth=50, style='caffe', norm_cfg=dict(type='BN', requires_grad=True)",
        neck="type='FPN_UNet', in_channels=[256, 512, 1024, 2048], out_channels=32",
        head="type='TextSnakeHead', in_channels=32",
        post="type='TextSnakePostprocessor', text_repr_type='poly'",
        resize="type='Resize', scale=(1333, 736), keep_ratio=True",
    )


# (a config, the zoo model that it is): of each family, in both generations.
MEMBERS = [
    *[(hourglass(t), "hourglass52-coco-256x256") for t in HEADS],
    *[(top_down(t, HEADS[t]), "hrnet-w32-coco-256x192") for t in HEADS],
    *[(top_down(t, HEADS[t], width=48, size=(384, 288)), "hrnet-w48-coco-384x288") for t in HEADS],
    *[(top_down(t, HEADS[t], method="dark"), "hrnet-w32-coco-256x192-dark") for t in HEADS],
    *[(top_down(t, HEADS[t], method="udp"), "hrnet-w32-coco-256x192-udp") for t in HEADS],
    (top_down(TOP_DOWN_0, HEADS[TOP_DOWN_0], size=(384, 288), method="udp", blur=17), "hrnet-w32-coco-384x288-udp"),
    *[(grouped(t), "hrnet-w32-ae-coco-512") for t in (GROUPED_0, GROUPED_1)],
    *[(cifar(t, 18, 512), "resnet18-cifar10") for t in (CLASSIFIER_0, CLASSIFIER_1)],
    *[(cifar(t, 152, 2048), "resnet152-cifar10") for t in (CLASSIFIER_0, CLASSIFIER_1)],
    *[
        (classifier(t, RESNET.format(50), 2048, library="opencv"), "resnet50-imagenet")
        for t in (CLASSIFIER_0, CLASSIFIER_1)
    ],
    *[(classifier(t, RESNEXT, 2048), "resnext50-32x4d-imagenet") for t in (CLASSIFIER_0, CLASSIFIER_1)],
    *[
        (classifier(t, "dict(type='MobileNetV2', widen_factor=1.0)", 1280), "mobilenet-v2-imagenet")
        for t in (CLASSIFIER_0, CLASSIFIER_1)
    ],
    *[
        (classifier(t, "dict(type='HRNet', arch='w18')", 2048, FUSE), "hrnet-w18-imagenet")
        for t in (CLASSIFIER_0, CLASSIFIER_1)
    ],
    (PANET, "panet-r18-icdar2015"),
    *[(textsnake(t), "textsnake-r50-ctw1500") for t in (TEXTS_0, TEXTS_1)],
]


def card_of(folder: Path, text: str) -> Any:
    """The card of a config's text, by the way that every command takes."""
    (folder / "info.py").write_text("dataset_info = dict(dataset_name='coco', keypoint_info={0: dict(name='nose')})\n")
    (folder / "it.py").write_text(text)
    return load_card(folder / "it.py")


def state(card: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Keys and shapes of the architecture's weights."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        module = discover.load("models", card.model).build(**card.arguments)
    return [(key, tuple(value.shape)) for key, value in module.state_dict().items()]


def decoding(card: Any) -> dict[str, Any]:
    """A card's decoding with defaults filled in, but for the flip test, which the zoo leaves to the command line."""
    kinds = discover.load("tasks", card.task).DECODE
    defaults = {name: kind[0] for name, kind in kinds.items() if isinstance(kind, tuple)}
    return {name: value for name, value in {**defaults, **card.decode}.items() if not name.startswith("flip")}


@pytest.mark.parametrize(("text", "name"), MEMBERS, ids=[f"{i}-{name}" for i, (_, name) in enumerate(MEMBERS)])
def test_config_is_the_card_of_the_zoo(text: str, name: str, tmp_path: Path) -> None:
    """Task, architecture, input and decoding of a config are those of the zoo's card for the same checkpoint."""
    card, known = card_of(tmp_path, text), load_card(name)
    assert (card.name, card.task, card.model, card.input) == ("it", known.task, known.model, known.input)
    assert state(card) == state(known)
    assert decoding(card) == decoding(known)
    if card.task.endswith("pose"):
        assert card.decode["flip_test"] is True
        assert card.decode["flip_shift"] is (card.decode.get("method", "udp") != "udp")


def test_every_family_is_read_from_a_config() -> None:
    """An architecture that has an entry has a config above, and the entry names a model and a task that exist."""
    read = {load_card(name).model for _, name in MEMBERS}
    assert read == {family.model for family in FAMILIES}
    assert {family.task for family in FAMILIES} <= set(discover.names("tasks"))


W32, HOUR, RES = (
    top_down(TOP_DOWN_1, "HeatmapHead"),
    hourglass(TOP_DOWN_1),
    classifier(CLASSIFIER_1, RESNET.format(50), 2048),
)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (HOUR, "num_stacks=1", "num_stacks=2", "model.backbone.num_stacks is 2, but the hourglass of Sandglass has 1"),
        (HOUR, "num_stacks=1", "feat_channel=256", "model.backbone.num_stacks is 2, but the hourglass"),
        (HOUR, "in_channels=256", "in_channels=128", "model.head.in_channels is 128, but the hourglass"),
        (W32, "widths[:2]", "(32, 48)", "model.backbone.extra is .*, but the hrnet"),
        (W32, "'BASIC'", "'BOTTLENECK'", "model.backbone.extra is .*, but the hrnet"),
        (W32, "extra=extra, ", "", "model is not a complete hrnet"),
        (W32, "in_channels=3,", "in_channels=3, norm_cfg=dict(type='GN'),", "model.backbone.norm_cfg.type is 'GN'"),
        (W32, "in_channels=3,", "in_channels=3, upsample='bilinear',", "model.backbone.upsample is 'bilinear'"),
        (W32, "out_channels=17", "out_channels=16", "model.head.out_channels is 16, but the hrnet of Sandglass has 17"),
        (W32, "deconv_out_channels=None", "deconv_out_channels=(256, )", "model.head.deconv_out_channels is"),
        (W32, "backbone=", "neck=dict(type='FeatureMapProcessor'), backbone=", "model.neck.type is"),
        (W32, "'CocoDataset'", "'AP10KDataset'", "the test dataset is 'AP10KDataset'"),
        (W32, "'MSRAHeatmap'", "'SimCCLabel'", "model.head.decoder.type is 'SimCCLabel'"),
        (W32, "sigma=2", "sigma=2, heatmap_type='combined'", "heatmap_type is 'combined'"),
        (W32, "codec['input_size']", "codec['input_size'], use_udp=True", "only one of the affine crop"),
        (W32, "dict(type='GetBBoxCenterScale')", "dict(type='YOLOXHSVRandomAug')", "a step of the test pipeline is"),
        (W32, "'GetBBoxCenterScale'", "'GetBBoxCenterScale', angle=3", "GetBBoxCenterScale has angle=3"),
        (W32, "input_size=(192, 256)", "input_size=None", "the input's size is None"),
        (W32, "test_dataloader", "train_dataloader", "has no test dataset"),
        (W32, "data_preprocessor", "preprocessor", "does not define the normalization"),
        (RES, "style='pytorch'", "style='caffe'", "model.backbone.style is 'caffe'"),
        (RES, "style='pytorch'", "style='pytorch', base_channels=128", "model.backbone.base_channels is 128"),
        (RES, "edge='short'", "edge='long'", "the edge of ResizeEdge is 'long'"),
        (RES, "backend='pillow'", "backend='turbojpeg'", "the backend of the resizing is 'turbojpeg'"),
        (RES, "crop_size=224", "crop_size=224, efficientnet_style=True", "CenterCrop has efficientnet_style=True"),
        (W32, "test_dataloader =", "model['test_cfg'] = 3\ntest_dataloader =", "does not have the form"),
        (W32, "dict(type='LoadImage')", "'LoadImage'", "does not have the form of an OpenMMLab config"),
        (W32, "num_channels=(64, )", "num_channels=64", "model is not a complete hrnet"),
        (grouped(GROUPED_1), "decode_topk=30", "decode_topk=20", "model.head.decoder.decode_topk is 20"),
        (grouped(GROUPED_1), "decode_topk=30,", "", "model.head.decoder.decode_topk is 20"),
        (grouped(GROUPED_1), "size_factor=64", "size_factor=32", "BottomupResize.size_factor is 32"),
        (PANET, "deep_stem=True, ", "", "model.backbone.deep_stem is False, but the panet of Sandglass has True"),
        (PANET, "depth=18", "depth=50", "model.backbone.depth is 50"),
        (PANET, "hidden_dim=128", "hidden_dim=64", "model.det_head.hidden_dim is 64"),
        (PANET, "text_repr_type='quad'", "text_repr_type='bbox'", "text_repr_type is 'bbox'"),
        (PANET, "text_repr_type='quad'", "use_approxpolydp=True", "postprocessor has use_approxpolydp=True"),
        (PANET, "scale_divisor=1", "scale_divisor=32", "ShortScaleAspectJitter.scale_divisor is 32"),
        (PANET, " ratio_range=(1.0, 1.0)", " ratio_range=(0.7, 1.3)", "ShortScaleAspectJitter.ratio_range is"),
        (PANET, "pad_size_divisor=32", "pad_size_divisor=64", "pad_size_divisor is 64"),
        (textsnake(TEXTS_1), "style='caffe', ", "", "model.backbone.style is 'pytorch', but the textsnake"),
        (textsnake(TEXTS_1), "keep_ratio=True", "keep_ratio=False", "Resize.keep_ratio is False"),
        (textsnake(TEXTS_1), "scale=(1333, 736)", "scale=736", "does not define the size of a page"),
        (grouped(GROUPED_0), "nms_kernel=5", "nms_kernel=3", "model.test_cfg.nms_kernel is 3"),
        (grouped(GROUPED_0), "test_scale_factor=[1]", "test_scale_factor=[0.5, 1, 2]", "test_scale_factor is"),
    ],
)  # fmt: skip
def test_member_that_differs_is_refused_by_file_and_value(
    text: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    """What Sandglass would compute otherwise is named, never left out: the network would not be the one trained."""
    assert old in text
    with pytest.raises(ConfigError, match=message) as caught:
        card_of(tmp_path, text.replace(old, new))
    assert str(tmp_path / "it.py") in caught.value.message


@pytest.mark.parametrize(("old", "told"), [("'HRNet'", "TopdownPoseEstimator with LiteHRNet with HeatmapHead")])
def test_family_that_is_lacking_names_those_that_are_there(old: str, told: str, tmp_path: Path) -> None:
    """The parts of an unknown network are named, and what Sandglass has."""
    with pytest.raises(ConfigError, match=f"the model is {told}, which is not supported") as caught:
        card_of(tmp_path, W32.replace(old, "'LiteHRNet'"))
    assert "hourglass (HourglassNet with" in caught.value.fix
    assert "hrnet (HRNet with" in caught.value.fix
    with pytest.raises(ConfigError, match="has no model"):
        card_of(tmp_path, "lr = 1")


def test_config_is_deployed_like_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sandglass deploy CONFIG.py --checkpoint FILE` makes the artifact; a hostile config is one line with its line."""
    torch = pytest.importorskip("torch")
    small = hourglass(TOP_DOWN_1).replace(
        "num_stacks=1)", "num_stacks=1, downsample_times=2, stage_channels=[8, 8, 12], stage_blocks=[1, 1, 1],"
        " feat_channel=8)",
    ).replace("in_channels=256", "in_channels=8").replace("(256, 256)", "(64, 64)")  # fmt: skip
    card = card_of(tmp_path, small)
    torch.save(discover.load("models", card.model).build(**card.arguments).state_dict(), tmp_path / "a.pth")
    arguments = ["deploy", str(tmp_path / "it.py"), "--to", "onnxruntime", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--checkpoint", str(tmp_path / "a.pth")]) == 0
    assert "| it " in capsys.readouterr().out
    assert main([*arguments, "--force"]) == 2
    assert capsys.readouterr().err == "sandglass: it needs a checkpoint\n  give --checkpoint FILE\n"
    (tmp_path / "it.py").write_text("import os\nos.system('true')\n")
    assert main([*arguments, "--force"]) == 2
    assert f"sandglass: {tmp_path / 'it.py'}:1: an import is refused" in capsys.readouterr().err
