"""Hourglass-52 against mmpose's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from real import reference_weights

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")


def test_keys_and_output_equal_the_reference(real_data: Path) -> None:
    """State-dict keys, their order and shapes, and the heatmaps are mmpose 1.3.2's, to 1e-4 of the largest value."""
    from sandglass.models import hourglass

    folder = real_data / "fixtures/models/hourglass52"
    module = hourglass.build()
    own = [[key, list(value.shape)] for key, value in module.state_dict().items()]
    assert own == [entry[:2] for entry in json.loads((folder / "keys.json").read_text())]
    state = reference_weights.make(folder / "keys.json", gain=0.7)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    golden = np.load(folder / "golden_256x256_seed7.npz")
    with torch.inference_mode():
        heatmaps = module(torch.from_numpy(reference_weights.image(7, 256, 256))).numpy()
    assert list(heatmaps.shape) == list(golden["shape"])
    stride = int(golden["stride"])
    difference = np.abs(heatmaps[..., ::stride, ::stride] - golden["output"]).max()
    assert difference <= 1e-4 * float(golden["absmax"])
    assert heatmaps.sum(dtype=np.float64) == pytest.approx(float(golden["sum"]), rel=1e-4)
