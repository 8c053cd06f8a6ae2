"""Checkpoints with random weights, for measurements that do not depend on their values."""

from __future__ import annotations

from pathlib import Path

from sandglass.sources.card import Card


def random_weights(card: Card, path: Path, gain: float = 0.7) -> None:
    """A checkpoint with the card's keys; `gain` keeps activations alive from the first layer to the last."""
    import torch

    from sandglass.sources.export import build_module

    torch.manual_seed(0)
    module = build_module(card)
    for name, value in module.state_dict().items():
        if value.dim() == 4:
            value.normal_(0, gain * (2 / value[0].numel()) ** 0.5)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.05)
        elif name.endswith(("weight", "running_var")):
            value.uniform_(0.8, 1.2)
    torch.save({"state_dict": module.state_dict()}, path)
