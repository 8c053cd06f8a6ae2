"""TVM beside ONNX Runtime, both fp32: untuned, tuned, and what compiling and tuning took.

    pip install -e '.[tvm]'
    python benchmarks/tvm_latency.py MODEL [--tune-minutes 5] [--seconds 10] [--out DIR]

MODEL is a card or a zoo model; one without a checkpoint here gets random weights. The search starts from nothing: its
cache lies in the folder `--out`, where a run that was killed goes on. Latencies are of one image on all cores,
interleaved.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from random_weights import random_weights

from sandglass import benchmark, deploy
from sandglass.artifacts.artifact import Artifact
from sandglass.core.errors import CheckpointError
from sandglass.sources.card import Card
from sandglass.sources.load_card import load_card
from sandglass.sources.prepare import find_checkpoint
from sandglass.table.markdown import markdown


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a card or a zoo model")
    parser.add_argument("--tune-minutes", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of inference for each row")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        os.environ["SANDGLASS_CACHE"] = str(out / "cache")
        card = load_card(arguments.model)
        checkpoint = weights(card, out)
        made = [
            built(card, "onnxruntime:fp32", out / "untuned", checkpoint, 0),
            built(card, "tvm:fp32", out / "untuned", checkpoint, 0),
            built(card, "tvm:fp32", out / "tuned", checkpoint, arguments.tune_minutes),
        ]
        speeds = benchmark([artifact for artifact, _ in made], seconds=arguments.seconds)
    names = ("ONNX Runtime", "TVM", "TVM, tuned")
    print(markdown([
        {"runtime": name, "made in s": f"{spent:.0f}", "median ms": f"{speed.median:.2f}",
         "times ONNX Runtime": f"{speed.median / speeds[0].median:.2f}", "runs": str(speed.runs)}
        for name, (_, spent), speed in zip(names, made, speeds, strict=True)
    ]))  # fmt: skip


def weights(card: Card, out: Path) -> Path | None:
    """A checkpoint with random weights for a zoo model whose own is not here; None where none is needed."""
    if card.graph is not None:
        return None
    try:
        return find_checkpoint(card, None)
    except CheckpointError:
        out.mkdir(parents=True, exist_ok=True)
        random_weights(card, out / "random.pth")
        return out / "random.pth"


def built(card: Card, target: str, out: Path, checkpoint: Path | None, minutes: float) -> tuple[Artifact, float]:
    """The artifact and the seconds that all of its making took."""
    begin = time.perf_counter()
    (outcome,) = deploy(card, [target], out, checkpoint=checkpoint, tune_minutes=minutes, force=True, say=print)
    if outcome.artifact is None:
        raise SystemExit(str(outcome.error))
    return outcome.artifact, time.perf_counter() - begin


if __name__ == "__main__":
    main()
