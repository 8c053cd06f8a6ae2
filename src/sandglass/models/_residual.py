"""Residual blocks (He et al., 2015) with the state-dict keys of OpenMMLab's backbones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is a projection if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        hidden = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(self.bn2(self.conv2(hidden)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, which is a projection if the shape changes.

    The 3x3 convolution has `middle` channels, by default a quarter of the outputs, in `groups` (ResNeXt: Xie et al.,
    2017). The stride is in the 3x3 convolution, or in the first one with `strided_first` (style "caffe").
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        middle: int | None = None,
        groups: int = 1,
        strided_first: bool = False,
    ) -> None:
        super().__init__()
        middle = middle or outputs // 4
        first, second = (stride, 1) if strided_first else (1, stride)
        self.conv1 = nn.Conv2d(inputs, middle, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, second, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        hidden = torch.relu(self.bn1(self.conv1(features)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        return torch.relu(self.bn3(self.conv3(hidden)) + shortcut)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
