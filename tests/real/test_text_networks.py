"""PANet and TextSnake against mmocr's own."""

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

SIZE = (224, 320)


@pytest.mark.parametrize(
    ("fixture", "name"), [("panet_r18", "panet-r18-icdar2015"), ("textsnake_r50", "textsnake-r50-ctw1500")]
)
def test_keys_and_output_equal_the_reference(fixture: str, name: str, real_data: Path) -> None:
    """State-dict keys, their order and shapes, and the raw maps are mmocr 1.0.1's, to 1e-4 of the largest value."""
    card = load_card(name)
    module = discover.load("models", card.model or "").build(**card.arguments)
    folder = real_data / "fixtures/models" / fixture
    own = [[key, list(value.shape)] for key, value in module.state_dict().items()]
    assert own == [entry[:2] for entry in json.loads((folder / "keys.json").read_text())]
    state = reference_weights.make(folder / "keys.json", gain=0.7)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    golden = np.load(folder / "golden_224x320_seed7.npz")
    with torch.inference_mode():
        maps = module(torch.from_numpy(reference_weights.image(7, *SIZE))).numpy()
    assert list(maps.shape) == list(golden["shape"])
    stride = int(golden["stride"])
    difference = np.abs(maps[..., ::stride, ::stride] - golden["output"]).max()
    assert difference <= 1e-4 * float(golden["absmax"])
    assert maps.sum(dtype=np.float64) == pytest.approx(float(golden["sum"]), rel=1e-4)
