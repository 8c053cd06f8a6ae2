"""Hourglass for human pose (Newell et al., 2016), as published by OpenMMLab: one stack of basic residual blocks.

State-dict keys, shapes and results are those of mmpose 1.x's `HourglassNet` with a heatmap head. The default of `build`
is Hourglass-52.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sandglass.models._residual import BasicBlock

OUTPUTS = ("heatmaps",)
TINY = {"stage_channels": [8, 8, 12], "stage_blocks": [1, 1, 1], "stem_channels": 8, "feature_channels": 8}
TINY_SIZE = (64, 48)


def build(
    stage_channels: Sequence[int] = (256, 256, 384, 384, 384, 512),
    stage_blocks: Sequence[int] = (2, 2, 2, 2, 2, 4),
    stem_channels: int = 128,
    feature_channels: int = 256,
    keypoints: int = 17,
) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> heatmaps (N, keypoints, H/4, W/4).

    `stage_channels` and `stage_blocks` have one entry for each resolution, from a quarter of the input downwards.
    """
    return Hourglass(stage_channels, stage_blocks, stem_channels, feature_channels, keypoints).eval()


class Hourglass(nn.Module):
    """A backbone and a head."""

    def __init__(
        self, channels: Sequence[int], blocks: Sequence[int], stem_channels: int, feature_channels: int, keypoints: int
    ) -> None:
        super().__init__()
        self.backbone = Backbone(channels, blocks, stem_channels, feature_channels)
        self.head = Head(feature_channels, keypoints)

    def forward(self, image: Tensor) -> Tensor:
        heatmaps: Tensor = self.head(self.backbone(image))
        return heatmaps


class Backbone(nn.Module):
    """A stem, one hourglass, and a convolution after it."""

    def __init__(
        self, channels: Sequence[int], blocks: Sequence[int], stem_channels: int, feature_channels: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormRelu(3, stem_channels, kernel=7, stride=2), residual_layer(stem_channels, channels[0], 1, stride=2)
        )
        self.hourglass_modules = nn.ModuleList([HourglassModule(channels, blocks)])
        # This layer joins two stacks. A single stack never runs it, but published checkpoints have its weights.
        self.inters = residual_layer(channels[0], channels[0], 1)
        self.out_convs = nn.ModuleList([ConvNormRelu(channels[0], feature_channels, kernel=3)])

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.out_convs[0](self.hourglass_modules[0](self.stem(image)))
        return features


class HourglassModule(nn.Module):
    """One resolution of the hourglass, which contains the next lower one."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        current, lower = channels[:2]
        self.up1 = residual_layer(current, current, blocks[0])
        self.low1 = residual_layer(current, lower, blocks[0], stride=2)
        self.low2 = (
            HourglassModule(channels[1:], blocks[1:]) if len(channels) > 2 else residual_layer(lower, lower, blocks[1])
        )
        self.low3 = residual_layer(lower, current, blocks[0], widen_last=True)

    def forward(self, features: Tensor) -> Tensor:
        side = self.up1(features)
        low: Tensor = self.low3(self.low2(self.low1(features)))
        return side + functional.interpolate(low, size=side.shape[2:])


class ConvNormRelu(nn.Module):
    """A convolution, a batch normalization and a ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(features)))


class Head(nn.Module):
    """A 1x1 convolution that computes the heatmaps."""

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.multi_final_layers = nn.ModuleList([nn.Conv2d(channels, keypoints, 1)])

    def forward(self, features: Tensor) -> Tensor:
        heatmaps: Tensor = self.multi_final_layers[0](features)
        return heatmaps


def residual_layer(inputs: int, outputs: int, blocks: int, stride: int = 1, widen_last: bool = False) -> nn.Sequential:
    """`blocks` basic blocks; the first one has the stride and the change of channels, or the last with `widen_last`."""
    if widen_last:
        layers = [BasicBlock(inputs, inputs) for _ in range(blocks - 1)] + [BasicBlock(inputs, outputs, stride)]
    else:
        layers = [BasicBlock(inputs, outputs, stride)] + [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)
