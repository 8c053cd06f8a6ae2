"""How much of the runtimes' own speed an evaluation reaches: images a second, bare inference against `evaluate`.

    python benchmarks/evaluation_rate.py [--rounds 5] [--to openvino:fp32] [--batch 1 32]
                                         [--classification | --hourglass52 | --hrnet]

The bare rate is that of `sandglass benchmark`: one batch after the other of prepared inputs, on all cores. Both
sides alternate in one run; medians. SimplePose and the embedded Hourglass, on the real people of
`$SANDGLASS_TEST_DATA/data/pose/coco-mini`; on request ResNet-20 and EfficientNet-Lite0 on the real images of
`$SANDGLASS_TEST_DATA/data/classification`, or Hourglass-52 256x256 or HRNet-W32 256x192 with random weights, instead.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hourglass52 import MODEL
from random_weights import random_weights

from sandglass.artifacts.artifact import Artifact
from sandglass.core import host
from sandglass.datasets import cifar10, coco_keypoints, imagenet
from sandglass.deployment import deploy
from sandglass.measure.evaluation import evaluate
from sandglass.sources.card import Card, Input
from sandglass.sources.load_card import load_card
from sandglass.table.markdown import markdown
from sandglass.table.rows import identity
from sandglass.tasks import load_task

DATA = Path(os.environ.get("SANDGLASS_TEST_DATA", "../shared")) / "data"
RUNTIMES = ("onnxruntime:fp32", "openvino:fp32", "ncnn:fp32")
HRNET = "hrnet-w32-coco-256x192"
AT_LEAST_SECONDS = 1.0  # of inference in a measurement


RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
Case = tuple[Card, Any, Path | None]  # with its dataset, and its checkpoint where it needs one


def pose() -> list[Case]:
    """Two small networks on the same people."""
    graph = DATA / "pose/simplepose/simplepose-nano.onnx"
    simplepose = Card("simplepose-nano", "topdown-pose", Input((256, 192), *RGB), graph=graph)
    return [(simplepose, people(), None), (load_card("hourglass-tiny-synthetic"), people(), None)]


def people(limit: int | None = None) -> Any:
    """The annotated persons."""
    folder = DATA / "pose/coco-mini"
    annotations = folder / "annotations/person_keypoints_train2017.json"
    return coco_keypoints.load(folder / "train2017", annotations, limit=limit)


def classification() -> list[Case]:
    """A network of 32x32 on arrays in memory, and one of 224x224 on JPEG files."""
    small, large = DATA / "classification/cifar10", DATA / "classification/imagenet-sample"
    resnet = Card("resnet20-cifar10", "classification", Input((32, 32), *RGB), graph=small / "resnet20.onnx")
    lite = Card(
        "efficientnet-lite0",
        "classification",
        Input((224, 224), (127, 127, 127), (128, 128, 128)),
        graph=large / "efficientnet-lite0.onnx",
        decode={"short_side": 256},
    )
    images = imagenet.load(large / "images", large / "labels.txt")
    return [(resnet, cifar10.load(small / "test_0-499.npz"), None), (lite, images, None)]


def random(name: str, folder: Path, limit: int | None) -> list[Case]:
    """A zoo model with random weights, on the people of `limit` images."""
    weights = folder / "random.pth"
    random_weights(load_card(name), weights)
    return [(load_card(name), people(limit), weights)]


def compare(artifact: Artifact, dataset: Any, rounds: int, batch: int) -> dict[str, str]:
    """One row: both rates and their ratio."""
    task = load_task(artifact.card.task)
    samples = task.samples(dataset)
    prepared = [task.prepare(dataset.read(sample.image_id), sample, artifact.card)[0] for sample in samples]
    inputs = [
        {artifact.input_name: np.stack(prepared[start : start + batch])} for start in range(0, len(prepared), batch)
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
        bare.append(repeats * len(samples) / (time.perf_counter() - started))
        del session  # its idle threads would spin beside the other side's
        results = [evaluate(artifact, dataset, batch=batch) for _ in range(repeats)]
        whole.append(repeats * len(samples) / sum(result.seconds for result in results))
    ratio = median(b / a for a, b in zip(bare, whole, strict=True))
    return {
        **identity(artifact),
        "batch": str(batch),
        "inference images/s": f"{median(bare):.1f}",
        "evaluation images/s": f"{median(whole):.1f}",
        "ratio": f"{ratio:.2f}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--classification", action="store_true")
    kinds.add_argument("--hourglass52", action="store_true")
    kinds.add_argument("--hrnet", action="store_true")
    parser.add_argument("--to", nargs="+", default=RUNTIMES, metavar="BACKEND:PRECISION")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], metavar="N")
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        cases = classification() if arguments.classification else pose()
        if arguments.hourglass52:
            cases = random(MODEL, Path(scratch), 6)
        elif arguments.hrnet:
            cases = random(HRNET, Path(scratch), None)
        rows = []
        for card, dataset, weights in cases:
            made = deploy(card, arguments.to, Path(scratch) / card.name, checkpoint=weights)
            artifacts = [outcome.artifact for outcome in made if outcome.artifact]
            rows += [compare(artifact, dataset, arguments.rounds, n) for n in arguments.batch for artifact in artifacts]
        print(markdown(rows))


if __name__ == "__main__":
    main()
