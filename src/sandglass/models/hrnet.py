"""HRNet for human pose (Sun et al., 2019), as published by OpenMMLab: parallel branches of several resolutions.

State-dict keys, shapes and results are those of mmpose 1.x's `HRNet` with a heatmap head. The default of `build` is
HRNet-W32. Other heads use the backbone too: see hrnet_ae.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sandglass.models._residual import BasicBlock, Bottleneck

OUTPUTS = ("heatmaps",)
TINY = {"width": 4, "modules": [1, 1, 1], "blocks": 1, "stem_channels": 8}
TINY_SIZE = (64, 96)


def build(
    width: int = 32, keypoints: int = 17, modules: Sequence[int] = (1, 4, 3), blocks: int = 4, stem_channels: int = 64
) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> heatmaps (N, keypoints, H/4, W/4).

    H and W are multiples of 32. `width` is the number of channels at a quarter of the input's resolution (published: 32
    or 48); each lower resolution has twice as many. `modules` is the number of modules in the stages with two, three
    and four resolutions, and `blocks` the number of residual blocks in each branch.
    """
    return HRNet(width, keypoints, modules, blocks, stem_channels).eval()


class HRNet(nn.Module):
    """A backbone, and a 1x1 convolution that computes the maps."""

    def __init__(self, width: int, maps: int, modules: Sequence[int], blocks: int, stem_channels: int) -> None:
        super().__init__()
        self.backbone = Backbone(width, modules, blocks, stem_channels)
        self.head = Head(width, maps)

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.head(self.backbone(image)[0])
        return maps


class Head(nn.Module):
    """A 1x1 convolution."""

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.final_layer = nn.Conv2d(channels, maps, 1)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.final_layer(features)
        return maps


class Backbone(nn.Module):
    """A stem and four stages: images (N, 3, H, W) -> features, the highest resolution (a quarter) first.

    Features at 1/4, 1/8, 1/16 and 1/32 of the input have `width` times 1, 2, 4 and 8 channels. Without
    `all_resolutions` only the first one is computed, and the last stage has only its weights.
    """

    def __init__(
        self,
        width: int,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem_channels: int = 64,
        all_resolutions: bool = False,
    ) -> None:
        super().__init__()
        widths = [width << level for level in range(4)]
        expanded = 4 * stem_channels
        self.conv1 = nn.Conv2d(3, stem_channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.conv2 = nn.Conv2d(stem_channels, stem_channels, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem_channels)
        self.layer1 = nn.Sequential(
            Bottleneck(stem_channels, expanded), *(Bottleneck(expanded, expanded) for _ in range(blocks - 1))
        )
        self.transition1 = nn.ModuleList(
            [conv_norm(expanded, widths[0], relu=True), nn.Sequential(halving(expanded, widths[1], relu=True))]
        )
        self.stage2 = stage(widths[:2], modules[0], blocks)
        self.transition2 = transition(widths[:3])
        self.stage3 = stage(widths[:3], modules[1], blocks)
        self.transition3 = transition(widths)
        self.stage4 = stage(widths, modules[2], blocks, all_resolutions)

    def forward(self, image: Tensor) -> list[Tensor]:
        stem = torch.relu(self.bn1(self.conv1(image)))
        stem = self.layer1(torch.relu(self.bn2(self.conv2(stem))))
        features = self.stage2([layer(stem) for layer in self.transition1])
        features = self.stage3([*features, self.transition2[-1](features[-1])])
        result: list[Tensor] = self.stage4([*features, self.transition3[-1](features[-1])])
        return result


class ParallelModule(nn.Module):
    """A branch of residual blocks at each resolution; then each branch is added to each other one.

    With `outputs` 1 only the highest resolution is computed.
    """

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(channels, channels) for _ in range(blocks))) for channels in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [torch.relu(self._fuse(features, layers)) for layers in self.fuse_layers]

    def _fuse(self, features: list[Tensor], layers: nn.ModuleList) -> Tensor:
        first, *others = (layer(x) for layer, x in zip(layers, features, strict=True))
        total: Tensor = first
        for other in others:
            total = total + other
        return total


def stage(widths: Sequence[int], modules: int, blocks: int, all_resolutions: bool = True) -> nn.Sequential:
    """`modules` parallel modules with the same resolutions."""
    outputs = [len(widths)] * (modules - 1) + [len(widths) if all_resolutions else 1]
    return nn.Sequential(*(ParallelModule(widths, blocks, count) for count in outputs))


def transition(widths: Sequence[int]) -> nn.ModuleList:
    """One more resolution, half of the last one; the others stay unchanged."""
    new = nn.Sequential(halving(widths[-2], widths[-1], relu=True))
    return nn.ModuleList([*(nn.Identity() for _ in widths[:-1]), new])


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = False) -> nn.Sequential:
    """A convolution and a batch normalization, and a ReLU with `relu`."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def halving(inputs: int, outputs: int, relu: bool) -> nn.Sequential:
    """A convolution that halves the resolution."""
    return conv_norm(inputs, outputs, stride=2, relu=relu)


def _exchange(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """The layers between two resolutions: none, repeated halving, or a 1x1 convolution and nearest-pixel upsampling."""
    if source == target:
        return nn.Identity()
    if source > target:
        enlarged = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return conv_norm(widths[source], widths[target], kernel=1).append(enlarged)
    first = [halving(widths[source], widths[source], relu=True) for _ in range(target - source - 1)]
    return nn.Sequential(*first, halving(widths[source], widths[target], relu=False))
