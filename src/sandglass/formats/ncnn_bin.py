"""ncnn's `.bin` file: the weights of all layers of a `.param` file in order, without names or lengths.

The length of a layer's weights follows from its parameters (see `ncnn_weights`). Bytes are referenced and not copied,
so that even a large model can be split and joined again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sandglass.core.errors import FormatError
from sandglass.formats.ncnn_param import Layer, Param
from sandglass.formats.ncnn_weights import blobs_of, unknown_kinds

FLOAT16, INT8, RAW_SCALED = 0x01306B47, 0x000D4B38, 0x0002C056


def read_bin(param: Param, path: Path) -> list[list[memoryview]]:
    """The blobs of each layer of `param`, with their storage tags, as views of the memory-mapped file.

    Raises FormatError, with the layer and the number of bytes, if the file does not fit to `param`.
    """
    size = path.stat().st_size if path.is_file() else -1
    if size < 0:
        raise FormatError(f"cannot read {path}: the file does not exist", "check the path")
    data = memoryview(np.memmap(path, np.uint8, "r").data) if size else memoryview(b"")
    return split(param, data, str(path))


def split(param: Param, data: memoryview, where: str = "bin") -> list[list[memoryview]]:
    """Split the bytes of a `.bin` file into the blobs of each layer. `where` names the file in errors."""
    position, parts = 0, []
    for layer in param.layers:
        blobs = []
        for count, has_tag in blobs_of(layer):
            length = _tagged_length(data, position, count) if has_tag else 4 * count
            if count < 0 or position + length > len(data):
                needed = f"it has {len(data)} bytes, but {position + length} are needed"
                raise FormatError(f"{where} ends in layer {layer.name}: {needed}", _fix(param))
            blobs.append(data[position : position + length])
            position += length
        parts.append(blobs)
    if position != len(data):
        raise FormatError(f"{where} has {len(data)} bytes, but the layers of its .param need {position}", _fix(param))
    return parts


def _fix(param: Param) -> str:
    unknown = unknown_kinds(param.layers)
    if unknown:
        return f"the sizes of the weights of {', '.join(unknown)} are unknown; use only layers of ncnn"
    return "give the .bin that belongs to the .param"


def _tagged_length(data: memoryview, position: int, count: int) -> int:
    if position + 4 > len(data):
        return len(data) + 4
    tag = int.from_bytes(data[position : position + 4], "little")
    if tag == FLOAT16:
        return 4 + (2 * count + 3) // 4 * 4
    if tag == INT8:
        return 4 + (count + 3) // 4 * 4
    if tag in (0, RAW_SCALED):
        return 4 + 4 * count
    return 4 + 4 * 256 + (count + 3) // 4 * 4  # a table of 256 values, and an index for each weight


def float_weights(blob: memoryview) -> np.ndarray | None:
    """The float32 weights of a tagged blob; None for int8 and table storage. Weights in float32 are not copied."""
    tag = int.from_bytes(blob[:4], "little")
    if tag == 0:
        return np.frombuffer(blob[4:], np.float32)
    if tag == FLOAT16:
        return np.frombuffer(blob[4:], np.float16).astype(np.float32)
    return None


def int8_blob(weights: np.ndarray) -> memoryview:
    """A tagged blob of signed bytes, padded to a multiple of four bytes."""
    data = weights.astype(np.int8).tobytes()
    return memoryview(INT8.to_bytes(4, "little") + data + bytes(-len(data) % 4))


def halved(layer: Layer, blobs: list[memoryview]) -> list[memoryview]:
    """A layer's blobs with its weights in float16, if they are in float32 and not too large.

    Blobs without a tag do not change: biases, and the parameters of normalizations.
    """
    results = []
    for blob, (_, has_tag) in zip(blobs, blobs_of(layer), strict=True):
        weights = float_weights(blob) if has_tag else None
        fits = weights is not None and float(np.abs(weights).max(initial=0)) <= float(np.finfo(np.float16).max)
        results.append(_half_blob(weights) if weights is not None and fits else blob)
    return results


def _half_blob(weights: np.ndarray) -> memoryview:
    data = weights.astype(np.float16).tobytes()
    return memoryview(FLOAT16.to_bytes(4, "little") + data + bytes(-len(data) % 4))


def floats_blob(values: np.ndarray) -> memoryview:
    """A blob of float32 values without a tag."""
    return memoryview(np.asarray(values, np.float32).tobytes())


def write_bin(parts: list[list[memoryview]], path: Path) -> None:
    """Write the blobs of all layers to a `.bin` file."""
    with path.open("wb") as stream:
        for blobs in parts:
            for blob in blobs:
                stream.write(blob)
