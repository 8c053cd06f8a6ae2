"""PyTorch's files: a pickle that describes tensors, and the bytes of their storages, in a zip archive or one by one.

No code of the file is run (see `pickles`), and only the bytes of the requested tensors are read.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from sandglass.core.errors import CheckpointError
from sandglass.formats.pickled_arrays import array, is_array, whole_numbers
from sandglass.formats.pickles import Call, Global, PickleError, read_pickle, text

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# A file may unpack to MOST_UNPACKED times its size plus SLACK bytes. Weights hardly compress, but float16 doubles as
# float32, and tensors that share a storage are unpacked separately.
MOST_UNPACKED, SLACK = 8, 16 << 20
MOST_PICKLED = 512 << 20  # bytes of the pickle itself, which may hold the log of a long training

# Storage types -> how their bytes are read. bfloat16 has no numpy type: its bits are the upper half of a float32.
STORAGES: dict[str, np.dtype] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype("<u2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("<i1"),
    "torch.ByteStorage": np.dtype("<u1"),
    "torch.BoolStorage": np.dtype("?"),
}
TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
# Other values that may be among the weights.
OTHERS = frozenset({"collections.OrderedDict", "torch.Size", "builtins.set", "numpy.core.multiarray.scalar",
                    "numpy._core.multiarray.scalar"})  # fmt: skip

# Names that appear only in files that try to run commands. They are not run here, but the user should know.
COMMANDS = frozenset(["os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib", "ctypes"])
FUNCTIONS = frozenset(["eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__"])
HOLDERS = frozenset(["builtins", "__builtin__", "io", "_io"])


@dataclass(frozen=True, eq=False)
class Storage:
    """A reference in the pickle to the bytes of one or more tensors. `count` is the number of elements."""

    kind: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype:
        """The type for reading the bytes. Raises CheckpointError with the name of an unknown kind."""
        if self.kind not in STORAGES:
            raise unknown(self.kind)
        return STORAGES[self.kind]

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.count * self.dtype.itemsize


@dataclass
class TorchFile:
    """An open file: `content` is the value of the pickle, and `load` returns the bytes of a storage.

    `left` is the number of bytes that may still be unpacked.
    """

    content: object
    load: Callable[[Storage], bytes]
    left: int
    loaded: dict[str, np.ndarray] = field(default_factory=dict)

    def value(self, entry: object) -> np.ndarray | None:
        """The array of an entry among the weights; None for an entry that is not a tensor.

        Raises CheckpointError for an entry created by an unknown function, and PickleError for a tensor that exceeds
        its storage.
        """
        while isinstance(entry, Call) and entry.function in PARAMETERS and entry.arguments:
            entry = entry.arguments[0]
        if is_array(entry):
            return array(entry)
        if not isinstance(entry, Call):
            return None
        if entry.function in TENSORS:
            return self._tensor(*entry.arguments[:4])
        if entry.function in OTHERS or entry.entries is not None:
            return None
        raise unknown(entry.function or "something without a name")

    def _tensor(self, storage: object = None, offset: object = 0, size: object = (), stride: object = ()) -> np.ndarray:
        shape, steps = whole_numbers(_plain(size)), whole_numbers(_plain(stride))
        if not isinstance(storage, Storage) or type(offset) is not int or offset < 0 or len(shape) != len(steps):
            raise PickleError("a tensor has no valid storage, offset, shape and strides")
        count = math.prod(shape)
        last = offset + sum((side - 1) * step for side, step in zip(shape, steps, strict=True))
        if count > storage.count or (count and last >= storage.count):
            raise PickleError("a tensor exceeds its storage")
        self._spend(4 * count)
        if not count:
            return np.empty(shape, np.float32 if storage.dtype.kind == "f" else storage.dtype)
        data = self._data(storage)
        bytes_each = [step * data.itemsize if side > 1 else 0 for side, step in zip(shape, steps, strict=True)]
        view = np.lib.stride_tricks.as_strided(data[offset:], shape, bytes_each)
        if storage.kind == "torch.BFloat16Storage":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view

    def _data(self, storage: Storage) -> np.ndarray:
        if storage.key not in self.loaded:
            self._spend(storage.size)
            data = self.load(storage)
            if len(data) != storage.size:
                raise EOFError(f"storage {storage.key} is truncated")
            self.loaded[storage.key] = np.frombuffer(data, storage.dtype)
        values = self.loaded[storage.key]
        if values.dtype != storage.dtype or len(values) != storage.count:
            raise PickleError(f"storage {storage.key} has two types or sizes")
        return values

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise PickleError(f"its tensors take more than {MOST_UNPACKED} times the size of the file")


def open_torch(stream: IO[bytes]) -> TorchFile:
    """Read the pickle of a file, and find its storages. The stream must stay open until they are loaded."""
    size = stream.seek(0, io.SEEK_END)
    left = MOST_UNPACKED * size + SLACK
    return _open_zip(stream, left) if zipfile.is_zipfile(stream) else _open_legacy(stream, left)


def unknown(name: str) -> CheckpointError:
    """The error for an unknown name."""
    return CheckpointError(
        f"the checkpoint names {name}, which tensors do not need: it was refused and nothing was run",
        "get the file from its publisher, or convert it to .safetensors on a machine where you trust it",
    )


def _refuse(name: Global) -> None:
    module = name.module.partition(".")[0]
    if module in COMMANDS or (module in HOLDERS and name.name in FUNCTIONS):
        raise unknown(str(name))


def _storage(identity: object) -> Storage:
    if not isinstance(identity, tuple) or len(identity) < 5:
        raise PickleError("it refers to an object outside the pickle that is not a storage")
    tag, kind, key, _, count = identity[:5]
    if text(tag) != "storage" or not isinstance(kind, Global) or type(count) is not int or count < 0:
        raise PickleError("it refers to an object outside the pickle that is not a storage")
    key = text(key)
    return Storage(str(kind), key if isinstance(key, str) else "", count)


def _plain(values: object) -> object:
    """The numbers in a `torch.Size`."""
    if isinstance(values, Call) and values.function == "torch.Size" and values.arguments:
        return values.arguments[0]
    return values


def _open_zip(stream: IO[bytes], left: int) -> TorchFile:
    archive = zipfile.ZipFile(stream)
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise PickleError(f"it has {len(names)} entries data.pkl, expected one")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and _entry(archive, f"{folder}byteorder", 16) != b"little":
        raise PickleError("its numbers are big-endian, which is not supported")
    pickled = _entry(archive, names[0], min(left, MOST_PICKLED))
    content = read_pickle(io.BytesIO(pickled), _refuse, _storage)

    def load(storage: Storage) -> bytes:
        name = f"{folder}data/{storage.key}"
        if archive.getinfo(name).file_size != storage.size:
            raise PickleError(f"the size of storage {storage.key} does not fit its tensors")
        return _entry(archive, name, storage.size)

    return TorchFile(content, load, left - len(pickled))


def _entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """An entry of an archive. Other compressions than deflate are refused, because their memory cannot be limited."""
    entry = archive.getinfo(name)
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise PickleError(f"its entry {name} is encrypted or has an unsupported compression")
    if entry.file_size > most:
        raise PickleError(f"its entry {name} unpacks to {entry.file_size} bytes, but the limit is {most}")
    return archive.read(entry)


def _open_legacy(stream: IO[bytes], left: int) -> TorchFile:
    """Open a file of PyTorch before 1.6: five pickles, then the bytes of the storages in the order of the last one."""
    stream.seek(0)
    if read_pickle(stream) != LEGACY_MAGIC:
        raise PickleError("it is neither a zip archive nor a legacy checkpoint")
    for _ in range(2):  # protocol version, system information
        read_pickle(stream, _refuse)
    storages: dict[str, Storage] = {}

    def record(identity: object) -> Storage:
        storage = _storage(identity)
        return storages.setdefault(storage.key, storage)

    content = read_pickle(stream, _refuse, record)
    keys = read_pickle(stream, _refuse)
    places = _places(stream, storages, keys if isinstance(keys, list) else [])

    def load(storage: Storage) -> bytes:
        stream.seek(places[storage.key])
        return stream.read(storage.size)

    return TorchFile(content, load, left)


def _places(stream: IO[bytes], storages: dict[str, Storage], keys: Iterable[object]) -> dict[str, int]:
    """The position of each storage's first byte. The number of elements before it is checked."""
    places, end = {}, stream.seek(0, io.SEEK_CUR)
    size = stream.seek(0, io.SEEK_END)
    for key in map(text, keys):
        if not isinstance(key, str) or key not in storages:
            raise PickleError("a storage belongs to no tensor")
        stream.seek(end)
        (count,) = struct.unpack("<q", stream.read(8))
        places[key], end = end + 8, end + 8 + storages[key].size
        if count != storages[key].count or end > size:
            raise EOFError(f"storage {key} is truncated")
    return places
