"""Sandglass deploys trained vision models to runtimes in fp32, fp16 and int8, and measures accuracy and speed.

    from pathlib import Path
    import sandglass

    data = sandglass.load_dataset("coco-keypoints", images=Path("train2017"), annotations=Path("train.json"))
    outcomes = sandglass.deploy("card.toml", ["ncnn:fp32", "ncnn:int8"], Path("out"),
                                calibration=sandglass.Calibration(data, size=64))
    artifacts = [outcome.artifact for outcome in outcomes if outcome.artifact]
    for artifact, speed in zip(artifacts, sandglass.benchmark(artifacts)):
        print(artifact.backend, artifact.precision, sandglass.evaluate(artifact, data).metrics["AP"], speed.median)

The public names are loaded on first use: `import sandglass` imports neither PyTorch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandglass.artifacts.artifact import Artifact, load_artifact
    from sandglass.artifacts.target import Outcome
    from sandglass.core.errors import SandglassError
    from sandglass.datasets import load_dataset
    from sandglass.deployment import deploy
    from sandglass.kit.collect import collect
    from sandglass.measure.benchmarking import Speed, benchmark
    from sandglass.measure.evaluation import Evaluation, changes, evaluate
    from sandglass.measure.inspection import Inspection, inspect
    from sandglass.measure.prediction import predict
    from sandglass.measure.tuning import Tuning, tune
    from sandglass.quantization.calibration import Calibration
    from sandglass.search.quantize import Quantization, quantize, sensitivity
    from sandglass.sources.card import Card
    from sandglass.sources.load_card import load_card
    from sandglass.table.file import read_table
    from sandglass.table.run import deploy_all

_HOMES = {
    "Artifact": "artifacts.artifact",
    "Calibration": "quantization.calibration",
    "Card": "sources.card",
    "Evaluation": "measure.evaluation",
    "Inspection": "measure.inspection",
    "Outcome": "artifacts.target",
    "Quantization": "search.quantize",
    "SandglassError": "core.errors",
    "Speed": "measure.benchmarking",
    "Tuning": "measure.tuning",
    "benchmark": "measure.benchmarking",
    "changes": "measure.evaluation",
    "collect": "kit.collect",
    "deploy": "deployment",
    "deploy_all": "table.run",
    "evaluate": "measure.evaluation",
    "inspect": "measure.inspection",
    "load_artifact": "artifacts.artifact",
    "load_card": "sources.load_card",
    "load_dataset": "datasets",
    "predict": "measure.prediction",
    "quantize": "search.quantize",
    "read_table": "table.file",
    "sensitivity": "search.quantize",
    "tune": "measure.tuning",
}

__all__ = [
    "Artifact",
    "Calibration",
    "Card",
    "Evaluation",
    "Inspection",
    "Outcome",
    "Quantization",
    "SandglassError",
    "Speed",
    "Tuning",
    "benchmark",
    "changes",
    "collect",
    "deploy",
    "deploy_all",
    "evaluate",
    "inspect",
    "load_artifact",
    "load_card",
    "load_dataset",
    "predict",
    "quantize",
    "read_table",
    "sensitivity",
    "tune",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sandglass' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sandglass.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
