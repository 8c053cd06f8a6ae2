"""Source models in other formats than ONNX. They are converted to ONNX and compared with their own runtime."""

from __future__ import annotations

from pathlib import Path

from sandglass.sources import ncnn_onnx

READERS = {".param": ncnn_onnx.rewrite}


def as_onnx(source: Path, size: tuple[int, int], folder: Path) -> Path:
    """The ONNX file of a model for images of `size` (height, width): `source` itself, or a converted file in `folder`.

    Raises the errors of the conversion (see `ncnn_onnx.rewrite`).
    """
    if source.suffix not in READERS:
        return source
    out = folder / f"{source.name}.onnx"
    READERS[source.suffix](source, size, out)
    return out
