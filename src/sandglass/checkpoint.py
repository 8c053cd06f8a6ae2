"""Reading trained weights without running anything that is in the file.

A `.pth` file is a pickle, and a pickle is a program. The reader here knows the handful of names that tensors and
OpenMMLab's metadata need, builds numpy arrays for them itself, and refuses any other name before it is looked up.
Neither PyTorch nor the modules that a pickle names are imported.
"""

from __future__ import annotations

import codecs
import io
import math
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from sandglass.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# What malformed bytes make zipfile, pickle and the builders below raise.
MALFORMED = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, KeyError, IndexError, ValueError, TypeError,
    AttributeError, OverflowError, MemoryError, NotImplementedError, RecursionError,
)  # fmt: skip

# Names of OpenMMLab 0.x checkpoints -> names of 1.x.
RENAMES = (
    (r"^module\.", ""),
    (r"^keypoint_head\.", "head."),
    (r"^bbox_head\.", "det_head."),
)

# Storage types -> how their bytes are read. bfloat16 has no numpy type: its bits are the upper half of a float32.
STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("?"),
}


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The state dict of a `.pth` (zip or legacy) or `.safetensors` file under 1.x names; floats are float32.

    It is taken from under `state_dict`, `model` or the top level. Raises CheckpointError when the file is missing,
    truncated, no checkpoint, or names a global that tensors do not need.
    """
    try:
        with path.open("rb") as stream:
            state = _read(path, stream)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except MALFORMED as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path} is not a whole checkpoint: {reason}", "download it again") from error
    return rename_keys(state)


def rename_keys(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keys as OpenMMLab 1.x writes them."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def match_state(state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise CheckpointError with the missing, unexpected and wrongly shaped keys, if there are any.

    Counters of BatchNorm (`num_batches_tracked`) may be missing: they do not matter for inference.
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
        raise CheckpointError(f"{path} holds another model: {'; '.join(lines)}", "give the checkpoint of this model")


def _some(keys: list[str], limit: int = 5) -> str:
    return ", ".join(keys[:limit]) + (", ..." if len(keys) > limit else "")


def _read(path: Path, stream: IO[bytes]) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = _read_zip(stream) if zipfile.is_zipfile(stream) else _read_legacy(stream)
    state = _state_dict(content)
    return {key: _as_float32(value) for key, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {key: _as_float32(value) for key, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _state_dict(content: Any) -> dict[str, np.ndarray]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, dict) else {}
    if not tensors:
        raise ValueError("there is no state dict in it")
    return tensors


def _as_float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype.kind == "f" else value


def _read_zip(stream: IO[bytes]) -> Any:
    with zipfile.ZipFile(stream) as archive:
        (name,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        folder = name.removesuffix("data.pkl")

        def storage(kind: _Storage, key: str, count: int) -> np.ndarray:
            if archive.getinfo(f"{folder}data/{key}").file_size != count * kind.dtype.itemsize:
                raise ValueError(f"storage {key} has another size than its tensors")
            return np.frombuffer(archive.read(f"{folder}data/{key}"), kind.dtype)

        return _Unpickler(io.BytesIO(archive.read(name)), storage).load()


def _read_legacy(stream: IO[bytes]) -> Any:
    """Before PyTorch 1.6: five pickles in a row, then the storages' bytes in the order of the last one's keys.

    The tensors come before the bytes they are made of, so the pickle is read twice: once to learn the storages.
    """
    stream.seek(0)
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if _Unpickler(stream, None).load() != LEGACY_MAGIC:
        raise ValueError("it is neither a zip archive nor a legacy checkpoint")
    for _ in range(2):  # protocol version, system information
        _Unpickler(stream, None).load()
    start = stream.tell()
    kinds: dict[str, tuple[_Storage, int]] = {}

    def learn(kind: _Storage, key: str, count: int) -> np.ndarray:
        if count * kind.dtype.itemsize > size:
            raise ValueError(f"storage {key} is larger than the file")
        kinds[key] = (kind, count)
        return np.empty(0, kind.dtype)

    _Unpickler(stream, learn, build=False).load()
    blobs: dict[str, np.ndarray] = {}
    for key in _Unpickler(stream, None).load():
        kind, count = kinds[key]
        (stored,) = struct.unpack("<q", stream.read(8))
        data = stream.read(count * kind.dtype.itemsize)
        if stored != count or len(data) != count * kind.dtype.itemsize:
            raise EOFError(f"storage {key} is cut off")
        blobs[key] = np.frombuffer(data, kind.dtype)
    stream.seek(start)
    return _Unpickler(stream, lambda kind, key, count: blobs[key]).load()


class _Storage:
    """A storage type, named in the pickle."""

    def __init__(self, name: str) -> None:
        self.name, self.dtype = name, STORAGES[name]


class _Dtype:
    """Stands for numpy.dtype in metadata; scalars are not needed, so their values are not built."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Knows a few names and refuses the rest."""

    def __init__(
        self, stream: IO[bytes], storage: Callable[[_Storage, str, int], np.ndarray] | None, build: bool = True
    ) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storage, self.build = storage, build
        self.known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch", "Size"): tuple,
            ("numpy", "dtype"): _Dtype,
            ("numpy.core.multiarray", "scalar"): lambda *_: None,
            ("numpy._core.multiarray", "scalar"): lambda *_: None,
            ("_codecs", "encode"): lambda text, encoding="utf-8": codecs.encode(text, "latin1"),
            **{("torch", name): _Storage(name) for name in STORAGES},
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.known[module, name]
        except KeyError:
            raise CheckpointError(
                f"the checkpoint names {module}.{name}, which no tensor needs: it was refused and nothing was run",
                "get the file from its publisher, or convert it to .safetensors where you trust it",
            ) from None

    def persistent_load(self, identity: Any) -> tuple[_Storage, np.ndarray]:
        tag, kind, key, _, count, *_ = identity
        if tag != "storage" or not isinstance(kind, _Storage) or self.storage is None:
            raise pickle.UnpicklingError("unknown persistent object")
        return kind, self.storage(kind, str(key), int(count))

    def _tensor(self, source: tuple[_Storage, np.ndarray], offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
        kind, data = source
        if not self.build:
            return np.empty(0, kind.dtype)
        shape, steps = tuple(map(int, size)), tuple(map(int, stride))
        last = int(offset) + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        count = math.prod(shape)
        if min((int(offset), *shape, *steps), default=0) < 0 or count > len(data) or (count and last >= len(data)):
            raise ValueError("a tensor lies outside its storage")
        bytes_each = data.itemsize
        view = np.lib.stride_tricks.as_strided(data[int(offset) :], shape, [step * bytes_each for step in steps])
        if kind.name == "BFloat16Storage":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view
