"""How much of the runtimes' own speed an evaluation reaches: images a second, bare inference against `evaluate`.

    python benchmarks/evaluation_rate.py [--rounds 5] [--hourglass52]

The bare rate is that of `sandglass benchmark`: one inference after the other on prepared inputs, on all cores. Both
sides alternate in one run; medians. SimplePose and the embedded Hourglass, on the real people of
`$SANDGLASS_TEST_DATA/data/pose/coco-mini`; on request Hourglass-52 256x256 with random weights instead.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from hourglass52 import MODEL
from random_weights import random_weights

from sandglass import discover, host
from sandglass.artifact import Artifact
from sandglass.card import Card, Input, load_card
from sandglass.datasets import KeypointDataset, coco_keypoints
from sandglass.evaluation import evaluate
from sandglass.pipeline import deploy
from sandglass.report.table import identity, markdown

DATA = Path(os.environ.get("SANDGLASS_TEST_DATA", "../shared")) / "data/pose"
RUNTIMES = ("onnxruntime:fp32", "openvino:fp32", "ncnn:fp32")
AT_LEAST_SECONDS = 1.0  # of inference in a measurement


def cards() -> list[Card]:
    """The two models."""
    normalization = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    graph = DATA / "simplepose/simplepose-nano.onnx"
    simplepose = Card("simplepose-nano", "topdown-pose", Input((256, 192), *normalization), graph=graph)
    return [simplepose, load_card("hourglass-tiny-synthetic")]


def compare(artifact: Artifact, dataset: KeypointDataset, rounds: int) -> dict[str, str]:
    """One row: both rates and their ratio."""
    task = discover.load("tasks", artifact.card.task)
    inputs = [
        {artifact.input_name: task.prepare(dataset.read(sample.image_id), sample, artifact.card)[0][np.newaxis]}
        for sample in task.samples(dataset)
    ]
    session = artifact.open(host.threads())
    started = time.perf_counter()
    for feed in inputs:
        session.run(feed)
    repeats = max(1, round(AT_LEAST_SECONDS / (time.perf_counter() - started)))
    del session
    bare, whole = [], []
    for _ in range(rounds):
        session = artifact.open(host.threads())
        session.run(inputs[0])
        started = time.perf_counter()
        for _ in range(repeats):
            for feed in inputs:
                session.run(feed)
        bare.append(repeats * len(inputs) / (time.perf_counter() - started))
        del session  # its idle threads would spin beside the other side's
        results = [evaluate(artifact, dataset) for _ in range(repeats)]
        whole.append(repeats * len(inputs) / sum(result.seconds for result in results))
    ratio = median(b / a for a, b in zip(bare, whole, strict=True))
    return {
        **identity(artifact),
        "inference images/s": f"{median(bare):.1f}",
        "evaluation images/s": f"{median(whole):.1f}",
        "ratio": f"{ratio:.2f}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hourglass52", action="store_true")
    arguments = parser.parse_args()
    folder = DATA / "coco-mini"
    people = coco_keypoints.load(
        folder / "train2017",
        folder / "annotations/person_keypoints_train2017.json",
        limit=6 if arguments.hourglass52 else None,
    )
    with TemporaryDirectory() as scratch:
        made = []
        if arguments.hourglass52:
            weights = Path(scratch) / "random.pth"
            random_weights(load_card(MODEL), weights)
            made += deploy(load_card(MODEL), RUNTIMES, Path(scratch) / "hourglass52", checkpoint=weights)
        else:
            for card in cards():
                made += deploy(card, RUNTIMES, Path(scratch) / card.name)
        artifacts = [outcome.artifact for outcome in made if outcome.artifact]
        print(markdown([compare(artifact, people, arguments.rounds) for artifact in artifacts]))


if __name__ == "__main__":
    main()
