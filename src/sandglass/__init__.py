"""Sandglass: trained vision models to int8 on every runtime, with accuracy and speed measured.

    from pathlib import Path
    import sandglass

    data = sandglass.load_dataset("coco-keypoints", images=Path("train2017"), annotations=Path("train.json"))
    outcomes = sandglass.deploy("card.toml", ["ncnn:fp32", "ncnn:int8"], Path("out"),
                                calibration=sandglass.Calibration(data, size=64))
    artifacts = [outcome.artifact for outcome in outcomes if outcome.artifact]
    for artifact, speed in zip(artifacts, sandglass.benchmark(artifacts)):
        print(artifact.backend, artifact.precision, sandglass.evaluate(artifact, data).metrics["AP"], speed.median)

Names load on first use: `import sandglass` imports neither PyTorch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandglass.artifact import Artifact, load_artifact
    from sandglass.benchmarking import Speed, benchmark
    from sandglass.calibration import Calibration
    from sandglass.card import Card, load_card
    from sandglass.datasets import load_dataset
    from sandglass.errors import SandglassError
    from sandglass.evaluation import Evaluation, changes, evaluate
    from sandglass.inspection import Inspection, inspect
    from sandglass.pipeline import Outcome, deploy
    from sandglass.prediction import predict
    from sandglass.tuning import Tuning, tune

_HOMES = {
    "Artifact": "artifact",
    "Calibration": "pipeline",
    "Card": "card",
    "Evaluation": "evaluation",
    "Inspection": "inspection",
    "Outcome": "pipeline",
    "SandglassError": "errors",
    "Speed": "benchmarking",
    "Tuning": "tuning",
    "benchmark": "benchmarking",
    "changes": "evaluation",
    "deploy": "pipeline",
    "evaluate": "evaluation",
    "inspect": "inspection",
    "load_artifact": "artifact",
    "load_card": "card",
    "load_dataset": "datasets",
    "predict": "prediction",
    "tune": "tuning",
}

__all__ = [
    "Artifact",
    "Calibration",
    "Card",
    "Evaluation",
    "Inspection",
    "Outcome",
    "SandglassError",
    "Speed",
    "Tuning",
    "benchmark",
    "changes",
    "deploy",
    "evaluate",
    "inspect",
    "load_artifact",
    "load_card",
    "load_dataset",
    "predict",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sandglass' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sandglass.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
