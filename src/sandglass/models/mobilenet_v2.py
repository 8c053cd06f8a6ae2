"""MobileNetV2 (Sandler et al., 2018) for classification, as published by OpenMMLab.

State-dict keys, shapes and results are those of mmpretrain 1.x's `MobileNetV2` with a linear head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

OUTPUTS = ("logits",)
TINY = {"width": 0.25, "classes": 10}
TINY_SIZE = (64, 48)
# One row for each layer: expansion, channels, blocks, stride of the first block.
LAYERS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST = 1280  # channels of the last convolution


def build(width: float = 1.0, classes: int = 1000) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> logits (N, classes); `width` multiplies channels."""
    return MobileNetV2(width, classes).eval()


class MobileNetV2(nn.Module):
    """A backbone, a global average, and a linear head."""

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone(width)
        self.head = nn.ModuleDict({"fc": nn.Linear(self.backbone.channels, classes)})

    def forward(self, image: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.backbone(image), 1).flatten(1)
        logits: Tensor = self.head["fc"](pooled)
        return logits


class Backbone(nn.Module):
    """A convolution, seven layers of inverted residual blocks, and a convolution."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = multiple_of_eight(32 * width)
        self.conv1 = ConvNorm(3, channels, 3, 2)
        for number, (expansion, base, blocks, stride) in enumerate(LAYERS, 1):
            outputs = multiple_of_eight(base * width)
            layer = []
            for i in range(blocks):
                layer.append(InvertedResidual(channels, outputs, expansion, 1 if i else stride))
                channels = outputs
            self.add_module(f"layer{number}", nn.Sequential(*layer))
        self.channels = int(LAST * max(1.0, width))
        self.conv2 = ConvNorm(channels, self.channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.conv1(image)
        for number in range(1, len(LAYERS) + 1):
            features = self.get_submodule(f"layer{number}")(features)
        features = self.conv2(features)
        return features


class InvertedResidual(nn.Module):
    """More channels, a depthwise convolution, fewer channels without a clamp; a shortcut if the shape is the same."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [ConvNorm(inputs, hidden, 1)] if expansion > 1 else []
        layers += [ConvNorm(hidden, hidden, 3, stride, hidden), ConvNorm(hidden, outputs, 1, clamps=False)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.conv(features)
        return features + output if self.adds else output


class ConvNorm(nn.Module):
    """A convolution, a batch normalization, and a ReLU6 unless `clamps` is false."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, clamps: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.clamps = clamps

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.bn(self.conv(features))
        return functional.relu6(output) if self.clamps else output


def multiple_of_eight(channels: float) -> int:
    """The nearest multiple of 8 that is at least nine tenths of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
