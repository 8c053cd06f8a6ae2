"""ResNet (He et al., 2015) and ResNeXt (Xie et al., 2017) for classification, as published by OpenMMLab.

State-dict keys, shapes and results are those of mmpretrain 1.x's `ResNet`, `ResNet_CIFAR` and `ResNeXt` (style
"pytorch": the stride is in the 3x3 convolution) with a linear head. The default of `build` is ResNet-18 for ImageNet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sandglass.models._residual import BasicBlock, Bottleneck

OUTPUTS = ("logits",)
TINY = {"depth": 50, "base_channels": 8, "groups": 2, "group_width": 32, "classes": 10}
TINY_SIZE = (64, 48)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = 4  # ratio of a bottleneck's output channels to the width of its stage
REFERENCE_WIDTH = 64  # channels of the first stage to which `group_width` refers


def build(
    depth: int = 18,
    base_channels: int = 64,
    groups: int = 1,
    group_width: int = REFERENCE_WIDTH,
    cifar: bool = False,
    classes: int = 1000,
) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> logits (N, classes).

    `depth` is a key of BLOCKS. From 50 on the blocks are bottlenecks, with `groups` groups of `group_width` channels in
    the first stage (ResNeXt-50 32x4d: depth 50, 32 groups, width 4). With `cifar` the stem does not reduce the
    resolution.
    """
    return ResNet(depth, base_channels, groups, group_width, cifar, classes).eval()


class ResNet(nn.Module):
    """A backbone, a global average, and a linear head."""

    def __init__(
        self, depth: int, base_channels: int, groups: int, group_width: int, cifar: bool, classes: int
    ) -> None:
        super().__init__()
        self.backbone = Backbone(depth, base_channels, groups, group_width, cifar)
        self.head = nn.ModuleDict({"fc": nn.Linear(self.backbone.channels, classes)})

    def forward(self, image: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.backbone(image), 1).flatten(1)
        logits: Tensor = self.head["fc"](pooled)
        return logits


class Backbone(nn.Module):
    """A stem and four stages, each at half the resolution of the one before it.

    With `deep_stem` the stem has three 3x3 convolutions with that number of channels, and not one 7x7 convolution (He
    et al., 2018). See Bottleneck for `strided_first`. `channels` is the number of channels of the last stage.
    """

    def __init__(
        self,
        depth: int,
        base_channels: int = 64,
        groups: int = 1,
        group_width: int = REFERENCE_WIDTH,
        cifar: bool = False,
        deep_stem: int = 0,
        strided_first: bool = False,
    ) -> None:
        super().__init__()
        channels = deep_stem or base_channels
        if deep_stem:
            self.stem = _deep_stem(deep_stem)
        else:
            kernel, stride = (3, 1) if cifar else (7, 2)
            self.conv1 = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
        self.pools = not cifar
        for stage, count in enumerate(BLOCKS[depth]):
            blocks: list[nn.Module] = []
            for i in range(count):
                width, step = base_channels * 2**stage, 2 if stage and not i else 1
                if depth < 50:
                    blocks.append(BasicBlock(channels, width, step))
                    channels = width
                else:
                    middle = width * group_width // REFERENCE_WIDTH * groups
                    blocks.append(Bottleneck(channels, EXPANSION * width, step, middle, groups, strided_first))
                    channels = EXPANSION * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.channels = channels

    def forward(self, image: Tensor) -> Tensor:
        return self.stages(image)[-1]

    def stages(self, image: Tensor) -> list[Tensor]:
        """The outputs of the four stages."""
        features = self.stem(image) if hasattr(self, "stem") else torch.relu(self.bn1(self.conv1(image)))
        if self.pools:
            features = functional.max_pool2d(features, 3, 2, 1)
        outputs = []
        for stage in range(1, 5):
            features = self.get_submodule(f"layer{stage}")(features)
            outputs.append(features)
        return outputs


def _deep_stem(width: int) -> nn.Sequential:
    """Three 3x3 convolutions with batch normalization and ReLU: the first has the stride, the last `width` channels."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, stride in ((width // 2, 2), (width // 2, 1), (width, 1)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)
