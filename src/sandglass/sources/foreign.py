"""Models in other formats than ONNX as sources: rewritten as ONNX and compared with their own runtime."""

from __future__ import annotations

from pathlib import Path

from sandglass.sources import ncnn_onnx

READERS = {".param": ncnn_onnx.rewrite}


def as_onnx(source: Path, size: tuple[int, int], folder: Path) -> Path:
    """The ONNX file of a model for images of `size`: `source` itself, or what is written into `folder` for it."""
    if source.suffix not in READERS:
        return source
    out = folder / f"{source.name}.onnx"
    READERS[source.suffix](source, size, out)
    return out
