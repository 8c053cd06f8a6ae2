"""Stands in for the TVM of Iluvatar's IGIE: an engine is an ONNX file, run by ONNX Runtime on this processor."""

from __future__ import annotations

from types import SimpleNamespace

import onnxruntime

__version__ = "0.0-fake"
KIND = "iluvatar"


class Target:
    def __init__(self, model: str, options: str) -> None:
        assert model == "MR"
        assert "ixinfer" in options
        self.kind = SimpleNamespace(name=KIND)


def device(kind: str, number: int) -> str:
    assert kind == KIND
    return f"{kind}:{number}"


def _load_module(path: str) -> dict:
    assert path.endswith(".so")
    return {"default": lambda device: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])}


target = SimpleNamespace(iluvatar=Target)
nd = SimpleNamespace(array=lambda values, device: values)
runtime = SimpleNamespace(load_module=_load_module)
