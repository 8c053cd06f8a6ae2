"""TextSnake for curved text (Long et al., 2018), as published by OpenMMLab.

State-dict keys, shapes and results are those of mmocr 1.x's `TextSnake`: a ResNet whose stride is in the first
convolution of a block, the `FPN_UNet` neck and a `TextSnakeHead`. The default of `build` is the published network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sandglass.models.resnet import EXPANSION, Backbone

OUTPUTS = ("maps",)
TINY = {"base_channels": 4, "neck_channels": 4, "widest": 16}
TINY_SIZE = (64, 96)
MAPS = 5  # text, centre, sine, cosine, radius


def build(depth: int = 50, base_channels: int = 64, neck_channels: int = 32, widest: int = 256) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> raw maps (N, 5, H, W).

    H and W are multiples of 32. `depth` is 50, 101 or 152. The neck has `neck_channels` channels at the full and at
    half the resolution, and twice as many at each lower one, up to `widest`.
    """
    return TextSnake(depth, base_channels, neck_channels, widest).eval()


class TextSnake(nn.Module):
    """A backbone, a neck and a head."""

    def __init__(self, depth: int, base_channels: int, neck_channels: int, widest: int) -> None:
        super().__init__()
        self.backbone = Backbone(depth, base_channels, strided_first=True)
        self.neck = Neck([EXPANSION * base_channels * 2**stage for stage in range(4)], neck_channels, widest)
        self.det_head = nn.ModuleDict({"out_conv": nn.Conv2d(neck_channels, MAPS, 1)})

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.det_head["out_conv"](self.neck(self.backbone.stages(image)))
        return maps


class Neck(nn.Module):
    """From the last stage to the resolution of the image; each finer stage is joined at its resolution."""

    def __init__(self, inputs: list[int], channels: int, widest: int) -> None:
        super().__init__()
        widths = [min(channels * 2**i, widest) for i in range(4)]  # at half the resolution, a quarter, ...
        self.up4 = nn.ConvTranspose2d(inputs[3], widths[3], 4, 2, 1)
        for level in (3, 2, 1):
            self.add_module(f"up_block{level}", UpBlock(inputs[level - 1] + widths[level], widths[level - 1]))
        self.up_block0 = UpBlock(widths[0], channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        current = torch.relu(self.up4(features[3]))
        for level in (3, 2, 1):
            # mmocr resizes the stage to the same size, which has no effect for sides that are multiples of 32.
            joined = torch.cat([current, features[level - 1]], 1)
            current = torch.relu(self.get_submodule(f"up_block{level}")(joined))
        output: Tensor = self.up_block0(current)
        return output


class UpBlock(nn.Module):
    """Two convolutions, and a transposed convolution that doubles the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(inputs, inputs, 1)
        self.conv3x3 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.deconv = nn.ConvTranspose2d(outputs, outputs, 4, 2, 1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.relu(self.conv3x3(torch.relu(self.conv1x1(features))))
        output: Tensor = self.deconv(hidden)
        return output
