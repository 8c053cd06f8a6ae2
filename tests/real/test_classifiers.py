"""Classifiers against mmpretrain's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from real import reference_weights
from sandglass.core import discover
from sandglass.sources.load_card import load_card

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

# The fixture, its card here, the gain of its weights, and the side of its image.
MODELS = [
    ("resnet18_cifar", "resnet18-cifar10", 0.7, 32),
    ("resnext50_32x4d", "resnext50-32x4d-imagenet", 0.7, 224),
    ("mobilenet_v2", "mobilenet-v2-imagenet", 1.0, 224),
    ("hrnet_w18_cls", "hrnet-w18-imagenet", 0.5, 224),
]


@pytest.mark.parametrize(("fixture", "name", "gain", "side"), MODELS, ids=[model[0] for model in MODELS])
def test_keys_and_output_equal_the_reference(fixture: str, name: str, gain: float, side: int, real_data: Path) -> None:
    """State-dict keys, their order and shapes, and the logits are mmpretrain 1.2.0's, to 1e-4 of the largest value."""
    card = load_card(name)
    assert card.input.size == (side, side)
    module = discover.load("models", card.model or "").build(**card.arguments)
    folder = real_data / "fixtures/models" / fixture
    own = [[key, list(value.shape)] for key, value in module.state_dict().items()]
    assert own == [entry[:2] for entry in json.loads((folder / "keys.json").read_text())]
    state = reference_weights.make(folder / "keys.json", gain=gain)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    (golden,) = (np.load(path) for path in folder.glob("golden_*.npz"))
    with torch.inference_mode():
        logits = module(torch.from_numpy(reference_weights.image(7, side, side))).numpy()
    assert list(logits.shape) == list(golden["shape"])
    assert np.abs(logits - golden["output"]).max() <= 1e-4 * float(golden["absmax"])
