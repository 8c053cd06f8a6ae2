"""HRNet with an associative-embedding head (Newell et al., 2017): heatmaps of all people, and tags that group them.

State-dict keys, shapes and results are those of mmpose 1.x's `HRNet` with an `AssociativeEmbeddingHead` that has a tag
for each keypoint. The default of `build` is HRNet-W32.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sandglass.models.hrnet import TINY, TINY_SIZE, HRNet

__all__ = ["OUTPUTS", "TINY", "TINY_SIZE", "build"]
OUTPUTS = ("heatmaps_and_tags",)


def build(
    width: int = 32, keypoints: int = 17, modules: Sequence[int] = (1, 4, 3), blocks: int = 4, stem_channels: int = 64
) -> nn.Module:
    """A module in evaluation mode: images (N, 3, H, W) float32 -> maps (N, 2 * keypoints, H/4, W/4), tags last.

    The arguments are those of hrnet.py.
    """
    return HRNet(width, 2 * keypoints, modules, blocks, stem_channels).eval()
