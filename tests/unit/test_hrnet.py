"""HRNet: widths, keys and resolutions follow from its arguments."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")


def test_keys_follow_from_the_arguments() -> None:
    """Each argument changes the shapes and numbers of what it is named after, under the published names."""
    from sandglass.models import hrnet, hrnet_ae

    arguments = {"width": 6, "keypoints": 5, "modules": (1, 2, 1), "blocks": 2, "stem_channels": 4}
    state = hrnet.build(**arguments).state_dict()
    assert state["backbone.conv1.weight"].shape == (4, 3, 3, 3)
    assert state["backbone.layer1.1.conv3.weight"].shape == (16, 4, 1, 1)
    assert state["backbone.stage3.1.branches.2.1.conv2.weight"].shape == (24, 24, 3, 3)
    assert state["backbone.stage4.0.fuse_layers.0.3.0.weight"].shape == (6, 48, 1, 1)
    assert state["head.final_layer.weight"].shape == (5, 6, 1, 1)
    assert not any("stage3.2" in key or "branches.0.2" in key for key in state)
    assert hrnet_ae.build(**arguments).state_dict()["head.final_layer.weight"].shape == (10, 6, 1, 1)


def test_all_resolutions_are_given_where_asked() -> None:
    """The backbone gives a quarter of the input alone, or four resolutions of which the first is the same."""
    from sandglass.models.hrnet import Backbone

    torch.manual_seed(0)
    whole = Backbone(4, (1, 1, 1), 1, 8, all_resolutions=True).eval()
    first = Backbone(4, (1, 1, 1), 1, 8).eval()
    first.load_state_dict({key: whole.state_dict()[key] for key in first.state_dict()})
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        (alone,), features = first(image), whole(image)
    assert [tuple(f.shape[1:]) for f in features] == [(4, 16, 24), (8, 8, 12), (16, 4, 6), (32, 2, 3)]
    torch.testing.assert_close(alone, features[0])
