"""The Hourglass family at small sizes; its results are compared with the reference in tests/real."""

from __future__ import annotations

import pytest

from sandglass.sources.card import ZOO
from sandglass.sources.checkpoint import read_checkpoint
from sandglass.sources.load_card import load_card

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("size", [(64, 48), (96, 96), (72, 40)])
def test_heatmaps_are_a_quarter_of_the_input(size: tuple[int, int]) -> None:
    """Seventeen heatmaps come out at a quarter of the input, also where a lower resolution is odd."""
    from sandglass.models import hourglass

    with torch.inference_mode():
        heatmaps = hourglass.build(**hourglass.TINY)(torch.zeros(2, 3, *size))
    assert heatmaps.shape == (2, 17, size[0] // 4, size[1] // 4)
    assert torch.isfinite(heatmaps).all()


def test_the_lowest_resolution_is_reached() -> None:
    """Every resolution contributes: changing the innermost block's weights changes the heatmaps."""
    from sandglass.models import hourglass

    module = hourglass.build(**hourglass.TINY)
    image = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    innermost = module.backbone.hourglass_modules[0].low2.low2[0]
    with torch.inference_mode():
        before = module(image)
        innermost.bn2.bias += 1
        after = module(image)
    assert not torch.allclose(before, after)


def test_sizes_are_arguments() -> None:
    """Keypoints, stem, stages and features have the widths asked for, under the published names."""
    from sandglass.models import hourglass

    state = hourglass.build((4, 6, 8), (1, 2, 1), stem_channels=5, feature_channels=7, keypoints=3).state_dict()
    assert state["backbone.stem.0.conv.weight"].shape == (5, 3, 7, 7)
    assert state["backbone.hourglass_modules.0.low2.up1.1.conv1.weight"].shape == (6, 6, 3, 3)
    assert state["backbone.hourglass_modules.0.low2.low3.1.downsample.0.weight"].shape == (6, 8, 1, 1)
    assert state["backbone.out_convs.0.conv.weight"].shape == (7, 4, 3, 3)
    assert state["head.multi_final_layers.0.weight"].shape == (3, 7, 1, 1)


def test_the_shipped_checkpoint_fits_its_card() -> None:
    """The network in the package has exactly the keys and shapes of its card's arguments, in under 3 MB."""
    from sandglass.models import hourglass

    card = load_card("hourglass-tiny-synthetic")
    assert card.checkpoint is not None
    path = ZOO / card.checkpoint.file
    assert path.stat().st_size < 3_000_000
    expected = {key: tuple(value.shape) for key, value in hourglass.build(**card.arguments).state_dict().items()}
    assert {key: value.shape for key, value in read_checkpoint(path).items()} == expected
