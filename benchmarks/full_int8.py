"""Full int8 with every repair, of large networks with random weights: how near to float, and how fast.

    python benchmarks/full_int8.py hrnet-w32-coco-256x192 --gain 0.5 [--to openvino ncnn] [--size 16]

Weights are drawn so that activations stay alive (`--gain`: 0.7 for Hourglass, 0.5 for HRNet). Calibration and the
images that the outputs are compared on are different people of coco-mini in `$SANDGLASS_TEST_DATA`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from random_weights import random_weights

from sandglass import Calibration
from sandglass.artifacts.artifact import Artifact
from sandglass.core.compare import correlation
from sandglass.datasets import KeypointDataset, coco_keypoints
from sandglass.graph.session import GraphSession
from sandglass.measure.benchmarking import benchmark
from sandglass.quantization.calibration import calibration_inputs
from sandglass.quantization.repairs import repair_names
from sandglass.search.inputs import prepare_inputs
from sandglass.search.run import Run
from sandglass.search.trials import build_exact, full_int8_plan
from sandglass.sources.load_card import load_card
from sandglass.sources.prepare import prepared_source
from sandglass.table.markdown import markdown
from sandglass.tasks import topdown_pose

DATA = Path(os.environ.get("SANDGLASS_TEST_DATA", "../shared")) / "data/pose/coco-mini"


def people() -> KeypointDataset:
    """The annotated people of coco-mini."""
    return coco_keypoints.load(DATA / "train2017", DATA / "annotations/person_keypoints_train2017.json")


def correlations(artifact: Artifact, graph: Path, inputs: list[np.ndarray]) -> list[float]:
    """Of the artifact's outputs with the graph's, one for each input."""
    session, exact = artifact.open(), GraphSession(graph)
    found = []
    for array in inputs:
        feed = {artifact.input_name: array}
        pairs = zip(exact.run(feed).values(), session.run(feed).values(), strict=True)
        found.append(min(correlation(expected, actual.reshape(expected.shape)) for expected, actual in pairs))
    return found


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr)


def main() -> None:
    """Print one table for all backends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gain", type=float, default=0.7)
    parser.add_argument("--to", nargs="+", default=["openvino", "ncnn"], dest="backends")
    parser.add_argument("--size", type=int, default=16, help="people that calibrate, and that are compared on")
    arguments = parser.parse_args()
    card, dataset, rows = load_card(arguments.model), people(), []
    drawn = calibration_inputs(card, Calibration(dataset, 2 * arguments.size))
    held_out = [array for array, _ in drawn[1::2]]
    ids = {meta["image_id"] for _, meta in drawn[1::2]}
    kept = [entry for entry in dataset.coco["annotations"] if entry["image_id"] not in ids]
    calibrating = KeypointDataset(dataset.name, {**dataset.coco, "annotations": kept}, dataset.read, dataset.protocol)
    assert topdown_pose.samples(calibrating), "no image is left to calibrate on"
    with TemporaryDirectory() as folder:
        random_weights(card, Path(folder) / "random.pth", arguments.gain)
        with prepared_source(card, Path(folder) / "random.pth") as source:
            for backend in arguments.backends:
                started = time.perf_counter()
                calibration = Calibration(calibrating, arguments.size)
                inputs = prepare_inputs(source, backend, calibration)
                plan = full_int8_plan(inputs, repair_names(), Run.new(source.graph.parent, say)).plan
                full = build_exact(inputs, plan, Path(folder) / "full", say)
                base = build_exact(inputs, None, Path(folder) / "base", say)
                seconds = time.perf_counter() - started
                found = correlations(full, source.graph, held_out)
                floating, integer = benchmark([base, full], seconds=6)
                rows.append({
                    "model": card.name,
                    "backend": backend,
                    "correlation, mean": f"{np.mean(found):.6f}",
                    "least": f"{min(found):.6f}",
                    "fp32 ms": f"{floating.median:.1f}",
                    "int8 ms": f"{integer.median:.1f}",
                    "to fp32": f"{integer.median / floating.median:.2f}",
                    "seconds to make": f"{seconds:.0f}",
                })  # fmt: skip
    print(markdown(rows))


if __name__ == "__main__":
    main()
