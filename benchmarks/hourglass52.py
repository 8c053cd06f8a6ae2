"""Hourglass-52 256x256 with random weights: time and memory to ncnn int8, and latency against fp32 and the others.

    python benchmarks/hourglass52.py [--calibration-size 16]

Random weights are scaled so that activations stay alive; speed does not depend on their values. Inputs are the
synthetic people.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from random_weights import random_weights

from sandglass.artifacts.artifact import load_artifact
from sandglass.measure.benchmarking import benchmark
from sandglass.measure.worker import peak_memory
from sandglass.quantization.calibrated_plan import calibrated_plan
from sandglass.quantization.calibration import Calibration, calibration_arrays
from sandglass.sources.load_card import load_card
from sandglass.sources.prepare import prepared_source
from sandglass.sources.source import Source
from sandglass.table.markdown import markdown
from sandglass.table.rows import speed_row

MODEL = "hourglass52-coco-256x256"


def calibrate_and_write(graph: Path, out: Path, size: int, result: object) -> None:
    """From the graph and images to the int8 files, in a process of its own.

    The C++ tools start from a converted model, so the conversion is timed apart.
    """
    from sandglass.backends import ncnn
    from sandglass.datasets import synthetic_people

    card = load_card(MODEL)
    source = Source(card, graph)
    calibration = Calibration(synthetic_people.load(limit=size, split="train"), size)
    times = [time.perf_counter()]
    arrays = calibration_arrays(card, calibration)
    plan = calibrated_plan(source, calibration, arrays, print)
    times.append(time.perf_counter())
    source.once("pnnx", lambda folder: ncnn.convert(graph, folder))
    times.append(time.perf_counter())
    out.mkdir()
    ncnn.build(source, "int8", out, plan)
    times.append(time.perf_counter())
    result.put((*(after - before for before, after in pairwise(times)), peak_memory()))  # type: ignore[attr-defined]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration-size", type=int, default=16)
    parser.add_argument("--to", nargs="+", default=["ncnn:fp32", "ncnn:int8"], dest="targets")
    arguments = parser.parse_args()
    from sandglass import deployment
    from sandglass.datasets import synthetic_people

    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        random_weights(load_card(MODEL), scratch / "random.pth")
        card = load_card(MODEL)
        with prepared_source(card, scratch / "random.pth", print) as source:
            context = get_context("spawn")
            result = context.Queue()
            process = context.Process(
                target=calibrate_and_write, args=(source.graph, scratch / "q", arguments.calibration_size, result)
            )
            process.start()
            plan, convert, write, memory = result.get()
            process.join()
        row = {
            "calibrate s": f"{plan:.1f}",
            "write int8 s": f"{write:.1f}",
            "both s": f"{plan + write:.1f}",
            "convert by pnnx s": f"{convert:.1f}",
            "peak MiB": f"{memory:.0f}",
        }
        print(markdown([row]))
        calibration = Calibration(synthetic_people.load(limit=4, split="train"), 4)
        outcomes = deployment.deploy(
            card,
            arguments.targets,
            scratch / "out",
            checkpoint=scratch / "random.pth",
            calibration=calibration,
            say=print,
        )
        made = [load_artifact(outcome.artifact.folder) for outcome in outcomes if outcome.artifact]
        speeds = benchmark(made, seconds=6)
        print(markdown([speed_row(speed, min(s.median for s in speeds)) for speed in speeds]))


if __name__ == "__main__":
    main()
