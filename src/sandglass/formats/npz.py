"""Read NumPy's `.npz` archives of arrays, with a limit on their unpacked size."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

MOST_UNPACKED = 512 << 20  # bytes of all arrays together: 160,000 images of CIFAR-10, or a few thousand heatmaps


def read_npz(stream: IO[bytes], most: int = MOST_UNPACKED) -> dict[str, np.ndarray]:
    """The arrays of an archive by name. Arrays of Python objects are refused, because they are pickles.

    Raises ValueError, zipfile.BadZipFile and the other errors of MALFORMED for a malformed file, and for arrays of more
    than `most` bytes together.
    """
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > most:
            raise ValueError(f"its arrays take more than {most >> 20} MiB")
        return dict(_arrays(archive, entries))


def _arrays(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> Iterator[tuple[str, np.ndarray]]:
    for entry in entries:
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its entry {entry.filename} is encrypted or has an unsupported compression")
        if entry.filename.endswith(".npy"):
            data = io.BytesIO(archive.read(entry))
            yield entry.filename.removesuffix(".npy"), np.lib.format.read_array(data, allow_pickle=False)
