"""The training of CIFAR-10 networks: it learns, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

MEAN, STD = (120.0, 120.0, 120.0), (60.0, 60.0, 60.0)


@pytest.fixture(autouse=True)
def own_convolutions() -> Iterator[None]:
    """PyTorch's own kernels, on one thread: networks this small spend their time on threads that wait for each other,
    and oneDNN's backward pass has corrupted memory on processors without AVX-512 (PyTorch 2.13.0)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.backends.mkldnn.flags(enabled=False):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The script."""
    path = Path(__file__).parents[2] / "tools/train_cifar.py"
    spec = importlib.util.spec_from_file_location("train_cifar", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["train_cifar"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data() -> tuple[Any, Any]:
    """Sixty-four images of two colours, which are their classes."""
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    pixels = random.integers(0, 60, (64, 3, 16, 16), np.uint8)
    pixels[labels == 1, 0] += 120
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def network() -> Any:
    from sandglass.models import resnet

    torch.manual_seed(0)
    return resnet.build(depth=18, base_channels=4, cifar=True, classes=2)


def test_it_learns_and_what_it_writes_is_a_checkpoint(tool: ModuleType, data: Any, tmp_path: Path) -> None:
    """Two colours are told apart after a few epochs; the file reads back to the same weights."""
    from sandglass.sources.checkpoint import read_checkpoint

    module, lines = network(), []
    settings = tool.Settings(epochs=6, batch=16, rate=0.05, warm_up=4)
    tool.train(module, *data, MEAN, STD, settings, tmp_path / "a.safetensors", lines.append)
    assert tool.accuracy(module, *data, MEAN, STD) > 0.95
    assert len(lines) == 6
    tool.save(module, tmp_path / "a.safetensors")
    read = read_checkpoint(tmp_path / "a.safetensors")
    for key, value in module.state_dict().items():
        np.testing.assert_array_equal(read[key], value.numpy(), err_msg=key)


def test_it_goes_on_where_it_was_killed(tool: ModuleType, data: Any, tmp_path: Path) -> None:
    """Killed in the second of three epochs and started again, it ends with the weights of an undisturbed run."""
    settings = tool.Settings(epochs=3, batch=16, rate=0.05, warm_up=4)
    whole = network()
    tool.train(whole, *data, MEAN, STD, settings, tmp_path / "whole", lambda line: None)

    def kill(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tool.train(network(), *data, MEAN, STD, settings, tmp_path / "cut", kill)
    resumed, lines = network(), []
    tool.train(resumed, *data, MEAN, STD, settings, tmp_path / "cut", lines.append)
    assert lines[0] == "going on after epoch 2"
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=1e-4, atol=1e-5, msg=key)
    with pytest.raises(SystemExit, match="was begun with"):
        tool.train(network(), *data, MEAN, STD, tool.Settings(epochs=4), tmp_path / "cut", lines.append)


def test_augmentation_moves_and_mirrors(tool: ModuleType) -> None:
    """Every image is a window of itself with a black border of four pixels, mirrored or not, as numpy cuts it."""
    pixels = torch.arange(1, 3 * 8 * 8 + 1).reshape(1, 3, 8, 8).repeat(40, 1, 1, 1)
    padded = np.pad(pixels[0].numpy(), ((0, 0), (4, 4), (4, 4)))
    windows = {padded[:, y : y + 8, x : x + 8][..., ::step].tobytes() for y in range(9) for x in range(9)
               for step in (1, -1)}  # fmt: skip
    found = [image.numpy().tobytes() for image in tool.augmented(pixels, torch.Generator().manual_seed(0))]
    assert set(found) <= windows
    assert len(set(found)) > 20


def test_rate_rises_and_falls(tool: ModuleType) -> None:
    """A warm-up to the highest rate, then down to nearly nothing."""
    settings = tool.Settings(epochs=1, rate=0.1, warm_up=10)
    rates = [tool.learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.098, abs=0.002)
    assert rates[-1] < 1e-4
