"""HRNet against mmpose's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from real import reference_weights
from sandglass.core import discover

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

MEMBERS = [
    ("hrnet_w32", "hrnet", {}, (256, 192)),
    ("hrnet_w48", "hrnet", {"width": 48}, (256, 192)),
    ("hrnet_w32_ae", "hrnet-ae", {}, (512, 512)),
]


@pytest.mark.parametrize(("name", "family", "arguments", "size"), MEMBERS)
def test_keys_and_output_equal_the_reference(
    real_data: Path, name: str, family: str, arguments: dict[str, int], size: tuple[int, int]
) -> None:
    """State-dict keys, their order and shapes, and the outputs are mmpose 1.3.2's, to 1e-4 of the largest value."""
    folder = real_data / "fixtures/models" / name
    module = discover.load("models", family).build(**arguments)
    own = [[key, list(value.shape)] for key, value in module.state_dict().items()]
    assert own == [entry[:2] for entry in json.loads((folder / "keys.json").read_text())]
    state = reference_weights.make(folder / "keys.json", gain=0.5)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    golden = np.load(folder / f"golden_{size[0]}x{size[1]}_seed7.npz")
    with torch.inference_mode():
        output = module(torch.from_numpy(reference_weights.image(7, *size))).numpy()
    assert list(output.shape) == list(golden["shape"])
    stride = int(golden["stride"])
    difference = np.abs(output[..., ::stride, ::stride] - golden["output"]).max()
    assert difference <= 1e-4 * float(golden["absmax"])
    assert output.sum(dtype=np.float64) == pytest.approx(float(golden["sum"]), rel=1e-4)
