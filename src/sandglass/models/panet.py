"""PANet, also called PAN, for text detection (Wang et al., 2019), as published by OpenMMLab.

State-dict keys, shapes and results are those of mmocr 1.x's `PANet`: a ResNet with a deep stem, the `FPEM_FFM` neck and
a `PANHead`. The default of `build` is the published network with ResNet-18.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sandglass.models.resnet import Backbone

OUTPUTS = ("maps",)
TINY = {"base_channels": 4, "deep_stem": 8, "neck_channels": 8, "repeats": 1}
TINY_SIZE = (64, 96)
MAPS = 6  # text, kernel, and an embedding with four channels


def build(
    depth: int = 18, base_channels: int = 64, deep_stem: int = 128, neck_channels: int = 128, repeats: int = 2
) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> raw maps (N, 6, H/4, W/4).

    H and W are multiples of 32. `depth` is 18 or 34. `deep_stem` is the number of channels in the stem, and
    `neck_channels` that in the `repeats` feature pyramids.
    """
    return PANet(depth, base_channels, deep_stem, neck_channels, repeats).eval()


class PANet(nn.Module):
    """A backbone, a neck and a head."""

    def __init__(self, depth: int, base_channels: int, deep_stem: int, neck_channels: int, repeats: int) -> None:
        super().__init__()
        self.backbone = Backbone(depth, base_channels, deep_stem=deep_stem)
        self.neck = Neck([base_channels * 2**stage for stage in range(4)], neck_channels, repeats)
        self.det_head = Head(4 * neck_channels, neck_channels)

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.det_head(self.neck(self.backbone.stages(image)))
        return maps


class Neck(nn.Module):
    """Stages with equal channels, enhanced by pyramids, summed, and joined at the resolution of the first stage."""

    def __init__(self, inputs: list[int], channels: int, repeats: int) -> None:
        super().__init__()
        for stage, width in enumerate(inputs, 2):
            reduce = nn.Sequential(nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())
            self.add_module(f"reduce_conv_c{stage}", reduce)
        self.fpems = nn.ModuleList([Pyramid(channels) for _ in range(repeats)])

    def forward(self, features: list[Tensor]) -> Tensor:
        current = [self.get_submodule(f"reduce_conv_c{i}")(feature) for i, feature in enumerate(features, 2)]
        sums: list[Tensor] = []
        for pyramid in self.fpems:
            current = pyramid(current)
            sums = [a + b for a, b in zip(sums, current, strict=True)] if sums else current
        size = sums[0].shape[2:]
        return torch.cat([sums[0], *(functional.interpolate(s, size, mode="bilinear") for s in sums[1:])], 1)


class Pyramid(nn.Module):
    """FPEM: from coarse to fine by enlarging and adding, and back to coarse by strided convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for stride, name in ((1, "up_add"), (2, "down_add")):
            for i in (1, 2, 3):
                self.add_module(f"{name}{i}", SeparableConv(channels, stride))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        finer = list(features)
        for i, level in enumerate((2, 1, 0), 1):
            finer[level] = self.get_submodule(f"up_add{i}")(_enlarged_sum(finer[level + 1], finer[level]))
        coarser = finer[:]
        for level in (1, 2, 3):
            mixed = _enlarged_sum(finer[level], coarser[level - 1])
            coarser[level] = self.get_submodule(f"down_add{level}")(mixed)
        return coarser


def _enlarged_sum(small: Tensor, large: Tensor) -> Tensor:
    return functional.interpolate(small, large.shape[2:]) + large


class SeparableConv(nn.Module):
    """A depthwise and a pointwise convolution, a batch normalization and a ReLU."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels)
        self.pointwise_conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn(self.pointwise_conv(self.depthwise_conv(features))))


class Head(nn.Module):
    """Two convolutions that compute the maps."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, MAPS, 1)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.conv2(torch.relu(self.bn1(self.conv1(features))))
        return maps
