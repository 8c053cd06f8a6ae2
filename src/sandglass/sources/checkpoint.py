"""Read trained weights without running any code from the file.

A `.pth` file is a pickle, and a pickle is a program. Here it is read as data (see `pickles`). Only the weights are
read; other data of the training (optimizer, logs, settings) are skipped. Neither PyTorch nor the modules that a pickle
names are imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from sandglass.core.errors import CheckpointError
from sandglass.core.reading import MALFORMED, open_file
from sandglass.formats.pickles import Call, text
from sandglass.formats.torch_files import LEGACY_MAGIC as LEGACY_MAGIC  # part of the public format
from sandglass.formats.torch_files import open_torch

# Names of OpenMMLab 0.x checkpoints -> names of 1.x.
RENAMES = (
    (r"^module\.", ""),
    (r"^keypoint_head\.", "head."),
    (r"^bbox_head\.", "det_head."),
)
STATES = ("state_dict", "model")  # keys of the weights, which may be nested; otherwise they are at the top level
MMENGINE_EMA = "ema_state_dict"
EMA_STATES = (MMENGINE_EMA, "state_dict_ema", "model_ema", "ema_model", "ema")
T = TypeVar("T")
COUNTERS = ("steps", "n_averaged")  # entries of the averaging that are not weights


def read_checkpoint(path: Path, ema: bool = False) -> dict[str, np.ndarray]:
    """The state dict of a `.pth` (zip or legacy) or `.safetensors` file, with OpenMMLab 1.x names; floats are float32.

    It is read from the key `state_dict` or `model`, or from the top level. With `ema`, the averaged weights are read.
    Raises CheckpointError if the file is missing, truncated or not a checkpoint, if `ema` is set and it has no averaged
    weights, and if a tensor needs an unknown class.
    """
    try:
        with open_file(path, CheckpointError) as stream:
            state = _read_safetensors(path, ema) if path.suffix == ".safetensors" else _read(stream, path, ema)
    except MALFORMED as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"{path} is not a complete checkpoint: {reason}", "give a .pth or .safetensors file, or download it again"
        ) from error
    return rename_keys(state)


def rename_keys(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict with OpenMMLab 1.x keys. Raises CheckpointError if two keys get the same name."""
    renamed: dict[str, np.ndarray] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        if name in renamed:
            raise CheckpointError(
                f"two tensors of the checkpoint get the name {name}; the second one is {key}", "remove one of them"
            )
        renamed[name] = value
    return renamed


def match_state(state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise CheckpointError for missing and unexpected keys and wrong shapes.

    Counters of BatchNorm (`num_batches_tracked`) may be missing, because inference does not use them.
    """
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    problems = {
        "missing": [key for key in expected if key not in state and key not in counters],
        "unexpected": [key for key in state if key not in expected],
        "wrongly shaped": [
            f"{key} {list(state[key].shape)} instead of {list(shape)}"
            for key, shape in expected.items()
            if key in state and state[key].shape != tuple(shape)
        ],
    }
    lines = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in problems.items() if keys]
    if lines:
        raise CheckpointError(
            f"{path} belongs to another model: {'; '.join(lines)}", "give the checkpoint of this model"
        )


def _some(keys: list[str], limit: int = 5) -> str:
    return ", ".join(keys[:limit]) + (", ..." if len(keys) > limit else "")


def _read(stream: IO[bytes], path: Path, ema: bool) -> dict[str, np.ndarray]:
    file = open_torch(stream)
    entries = _weights(file.content, path, ema)
    values = {key: file.value(entry) for key, entry in entries.items() if not key.endswith("_extra_state")}
    tensors = {key: _as_float32(value) for key, value in values.items() if value is not None}
    if not tensors:
        raise ValueError("it has no state dict")
    return tensors


def _read_safetensors(path: Path, ema: bool) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {key: _as_float32(value) for key, value in _chosen(state, path, ema).items()}


def _weights(content: object, path: Path, ema: bool) -> dict[str, object]:
    """The entries of the plain or the averaged state dict."""
    whole = _entries(content)
    averaged = next((entries for name in EMA_STATES if (entries := _entries(whole.get(name)))), None) if ema else None
    state = whole
    for name in STATES:
        state = _entries(state.get(name)) or state
    if averaged is None:
        return _chosen(state, path, ema)
    # mmengine saves the averaged weights as `state_dict`, and the weights of the last step, with `steps`, as EMA.
    if whole.get(MMENGINE_EMA) is not None and COUNTERS[0] in averaged:
        return _chosen(state, path, ema=False)
    return {key: entry for key, entry in averaged.items() if key not in COUNTERS}


def _chosen(state: Mapping[str, T], path: Path, ema: bool) -> dict[str, T]:
    """A state dict without averaged weights, or with the averaged in place of the plain ones. mmcv stores both."""
    twins = {key: twin for key in state if (twin := _twin(key, state))}
    if ema and not twins:
        raise CheckpointError(f"{path} has no averaged (EMA) weights", "leave out --ema")
    averages = set(twins.values())
    return {key: state[twins[key] if ema and key in twins else key] for key in state if key not in averages}


def _twin(key: str, state: Mapping[str, object]) -> str | None:
    """The key of a tensor's average, such as mmcv's `ema_backbone_conv1_weight` for `backbone.conv1.weight`."""
    plain = key.removeprefix("module.")
    names = (f"ema_{plain.replace('.', '_')}", f"ema_{plain}", f"ema.{plain}", f"model_ema.{plain}")
    return next((name for name in (*names, *(f"module.{name}" for name in names)) if name in state), None)


def _entries(value: object) -> dict[str, object]:
    """The entries of a dictionary of any class whose keys are texts; empty for other values."""
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, Call) and value.entries is not None:
        pairs = value.entries.items()
    elif isinstance(value, Call) and value.function == "collections.OrderedDict" and value.arguments:
        pairs = _pairs(value.arguments[0])  # written by Python 2
    return {name: entry for key, entry in pairs if isinstance(name := text(key), str)}


def _pairs(value: object) -> list[tuple[object, object]]:
    """The keys and values in a list of pairs."""
    pairs = value if isinstance(value, list | tuple) else ()
    return [(pair[0], pair[1]) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]


def _as_float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
