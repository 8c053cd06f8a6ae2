"""The weights of the reference models: they follow from the list of keys (see the fixtures' README)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def make(keys_file: Path, gain: float) -> dict[str, np.ndarray]:
    """The state dict for a `keys.json` of [key, shape, dtype] in order, float32 but for counters."""
    keys = json.loads(keys_file.read_text())
    with_statistics = {key.removesuffix(".running_mean") for key, _, _ in keys if key.endswith(".running_mean")}
    return {key: _tensor(t, key, shape, gain, with_statistics) for t, (key, shape, _) in enumerate(keys)}


def _tensor(t: int, key: str, shape: list[int], gain: float, normalized: set[str]) -> np.ndarray:
    random = np.random.Generator(np.random.PCG64(1000 + t))
    prefix, _, kind = key.rpartition(".")
    if kind == "num_batches_tracked":
        return np.array(1, np.int64)
    if len(shape) >= 2:
        value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:])) * gain
    elif kind == "running_mean":
        value = random.standard_normal(shape) * 0.05
    elif kind == "running_var":
        value = random.uniform(0.6, 1.4, shape)
    elif kind == "weight":
        value = random.uniform(0.8, 1.2, shape)
    else:
        value = random.standard_normal(shape) * (0.05 if prefix in normalized else 0.02)
    return np.asarray(value, np.float32)


def image(seed: int, height: int, width: int) -> np.ndarray:
    """The input (1, 3, H, W) float32 of a golden output."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((1, 3, height, width)).astype(np.float32)
