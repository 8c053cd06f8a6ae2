"""How long grouping people takes beside the network's inference, for the same image: HRNet-W32 at 512x512 on OpenVINO.

    python benchmarks/grouping.py [--rounds 5]

The weights are random: they do not change the time of inference, but would give noise for people. So the maps that are
grouped are those of a perfect network for the image's annotations, with noise: the images with people in
`$SANDGLASS_TEST_DATA/data/pose/coco-mini`, and a crowd of thirty. Both sides alternate, inference on all cores and
grouping on one; medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from random_weights import random_weights

from sandglass.artifacts.artifact import Artifact
from sandglass.core import host
from sandglass.datasets import coco_keypoints
from sandglass.deployment import deploy
from sandglass.sources.load_card import load_card
from sandglass.table.markdown import markdown
from sandglass.tasks import bottomup_pose

MODEL = "hrnet-w32-ae-coco-512"
DATA = Path(os.environ.get("SANDGLASS_TEST_DATA", "../shared")) / "data/pose/coco-mini"
NOISE = 0.0375  # three false peaks a heatmap; the embedded network's maps of unseen scenes have one


def noisy(maps: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Maps (1, 34, h, w) with smooth noise added."""
    random = np.random.default_rng(seed)
    return {
        name: array + cv2.GaussianBlur(random.normal(0, 4 * NOISE, array.shape[2:]), (0, 0), 1.5).astype(np.float32)
        for name, array in maps.items()
    }


def crowd(count: int) -> bottomup_pose.People:
    """A prediction of `count` people in rows, each with two keypoints missing."""
    grid = np.stack([20.0 * (np.arange(17) % 4), 20.0 * (np.arange(17) // 4)], axis=1)
    corners = np.array([[90.0 * (i % 7), 100.0 * (i // 7)] for i in range(count)])
    joints = np.concatenate([grid + corners[:, None] + 10, np.full((count, 17, 1), 0.9)], axis=2)
    joints[np.arange(count), np.arange(count) % 17, 2] = joints[np.arange(count), (np.arange(count) + 5) % 17, 2] = 0
    people: list[bottomup_pose.Person] = [
        {"keypoints": person.tolist(), "score": 1.0, "area": 64.0 * 64} for person in joints
    ]
    return {"image_id": 0, "people": people}


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def row(artifact: Artifact, image: np.ndarray, truth: bottomup_pose.People, rounds: int) -> dict[str, Any]:
    """People annotated and grouped, and both times in milliseconds."""
    (sample,) = bottomup_pose.samples_in_image(image, [])
    array, meta = bottomup_pose.prepare(image, sample, artifact.card)
    maps = noisy(bottomup_pose.encode([truth], [meta], artifact.card), seed=0)
    session, feed = artifact.open(host.threads()), {artifact.input_name: array[None]}
    session.run(feed)
    pairs = [
        (seconds(lambda: session.run(feed)), seconds(lambda: bottomup_pose.decode(maps, [meta], artifact.card)))
        for _ in range(rounds)
    ]
    found = bottomup_pose.decode(maps, [meta], artifact.card)[0]["people"]
    inference, grouping = (1000 * median(times) for times in zip(*pairs, strict=True))
    return {"people": len(truth["people"]), "grouped": len(found), "inference": inference, "grouping": grouping}


def main() -> None:
    """Print a row for each number of people, and the largest share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    dataset = coco_keypoints.load(DATA / "train2017", DATA / "annotations/person_keypoints_train2017.json")
    cases = [(dataset.read(t["image_id"]), t) for t in bottomup_pose.truths(dataset) if t["people"]]
    cases.append((np.zeros((520, 640, 3), np.uint8), crowd(30)))
    with TemporaryDirectory() as scratch:
        weights = Path(scratch) / "random.pth"
        random_weights(load_card(MODEL), weights, gain=0.5)
        (made,) = deploy(load_card(MODEL), ["openvino:fp32"], Path(scratch) / "out", checkpoint=weights)
        assert made.artifact is not None, made.error
        rows = [row(made.artifact, image, truth, rounds) for image, truth in cases]
    shares = [one["grouping"] / one["inference"] for one in rows]
    table = [
        {
            "people": str(one["people"]),
            "grouped": str(one["grouped"]),
            "inference ms": f"{one['inference']:.0f}",
            "grouping ms": f"{one['grouping']:.1f}",
            "share": f"{share:.3f}",
        }
        for one, share in sorted(zip(rows, shares, strict=True), key=lambda pair: pair[0]["people"])
    ]
    print(markdown(table))
    print(f"\nshare of inference: median {median(shares):.3f}, largest {max(shares):.3f}")


if __name__ == "__main__":
    main()
