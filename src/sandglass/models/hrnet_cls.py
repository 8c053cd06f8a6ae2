"""HRNet for classification (Wang et al., 2019), as published by OpenMMLab: four resolutions, joined fine to coarse.

State-dict keys, shapes and results are those of mmpretrain 1.x's `HRNet` with an `HRFuseScales` neck and a linear head.
The default of `build` is HRNet-W18.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from sandglass.models._residual import Bottleneck
from sandglass.models.hourglass import ConvNormRelu
from sandglass.models.hrnet import Backbone

OUTPUTS = ("logits",)
TINY = {"width": 4, "classes": 10, "modules": [1, 1, 1], "blocks": 1, "stem_channels": 8, "neck_channels": 8}
TINY_SIZE = (64, 96)


def build(
    width: int = 18,
    classes: int = 1000,
    modules: Sequence[int] = (1, 4, 3),
    blocks: int = 4,
    stem_channels: int = 64,
    neck_channels: int = 128,
) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> logits (N, classes).

    H and W are multiples of 32. `neck_channels` is the number of channels of the finest resolution in the neck; each
    coarser resolution has twice as many. The other arguments are those of hrnet.py.
    """
    return Classifier(width, classes, modules, blocks, stem_channels, neck_channels).eval()


class Classifier(nn.Module):
    """A backbone, a neck, a global average, and a linear head."""

    def __init__(
        self, width: int, classes: int, modules: Sequence[int], blocks: int, stem_channels: int, neck_channels: int
    ) -> None:
        super().__init__()
        self.backbone = Backbone(width, modules, blocks, stem_channels, all_resolutions=True)
        self.neck = nn.ModuleList([Neck([width << level for level in range(4)], neck_channels)])
        self.head = nn.ModuleDict({"fc": nn.Linear(16 * neck_channels, classes)})

    def forward(self, image: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.neck[0](self.backbone(image)), 1).flatten(1)
        logits: Tensor = self.head["fc"](pooled)
        return logits


class Neck(nn.Module):
    """A bottleneck widens each resolution; the finer ones are halved and added to it, from fine to coarse."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        widths = [channels << level for level in range(len(inputs))]
        self.increase_layers = nn.ModuleList(
            nn.Sequential(Bottleneck(narrow, wide)) for narrow, wide in zip(inputs, widths, strict=True)
        )
        self.downsample_layers = nn.ModuleList(
            ConvNormRelu(fine, coarse, kernel=3, stride=2) for fine, coarse in pairwise(widths)
        )
        self.final_layer = ConvNormRelu(widths[-1], 2 * widths[-1], kernel=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        joined: Tensor = self.increase_layers[0](features[0])
        for halve, widen, coarser in zip(self.downsample_layers, self.increase_layers[1:], features[1:], strict=True):
            joined = halve(joined) + widen(coarser)
        joined = self.final_layer(joined)
        return joined
