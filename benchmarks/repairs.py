"""What each repair is worth on SimplePose, and how near the simulation is to the runtimes.

    python benchmarks/repairs.py [--half even] [--to openvino ncnn onnxruntime]

Every layer that a runtime can run is in int8, calibrated on one half of the annotated images of coco-mini and measured
on the other (see rivals.py): signal over noise at the heatmaps, mean over people, and OKS to fp32, by simulation. All
but the last of these rows see each calibration person with a wider box too. For comparison the float network on images
with a little noise comes first, and in bfloat16 after OpenVINO's rows, where the processor has it. The last table
compares the simulation of the repaired plan with the artifact on its runtime.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rivals import HALVES, half_of, other, people, simplepose

from sandglass import Calibration
from sandglass.artifacts.artifact import Artifact
from sandglass.core import discover
from sandglass.core.compare import correlation
from sandglass.core.processor import ANY
from sandglass.graph.session import GraphSession
from sandglass.measure.evaluation import evaluate, fidelity
from sandglass.quantization.calibration import calibration_looks
from sandglass.quantization.output_noise import decibels, noise, run
from sandglass.quantization.plan import Plan
from sandglass.quantization.repaired_plan import repaired_plan
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.search.inputs import SearchInputs, prepare_inputs
from sandglass.search.run import Run
from sandglass.search.trials import build_exact, full_int8_plan
from sandglass.sources.prepare import prepared_source
from sandglass.table.markdown import markdown
from sandglass.tasks import topdown_pose

Row = Callable[[str, str, list[Any]], dict[str, str]]  # of a runtime, in words, and what it computed
VARIANTS: list[tuple[str, Sequence[str]]] = [
    ("none", ()),
    *((f"all but {name}", [repair for repair in repair_names() if repair != name]) for name in repair_names()),
    ("all", repair_names()),
    *((f"{name} alone", [name]) for name in repair_names()),
]


def row(expected: list[Any], metas: list[Any], runtime: str, told: str, found: list[Any]) -> dict[str, str]:
    """How near outputs are to the `expected` ones of the float network, printed as it is found."""
    first, second = (
        [topdown_pose.decode(values, [meta], simplepose())[0] for values, meta in zip(outputs, metas, strict=True)]
        for outputs in (expected, found)
    )
    agreed = np.nanmean([topdown_pose.agreement(a, b)["OKS"] for a, b in zip(first, second, strict=True)])
    power = decibels(noise(expected, found))
    cells = {"runtime": runtime, "repairs": told, "dB": f"{power:.1f}", "OKS to fp32": f"{agreed:.4f}"}
    print(" ".join(cells.values()), flush=True)
    return cells


def ablation(
    graph: Path, backend: str, calibrating: list[Any], once: list[Any], measured: list[Any], judged: Row
) -> list[Any]:
    """One row for each choice of repairs; `once` are the calibration inputs without the wider ones."""
    spec, rows = discover.load("backends", backend).SPEC.on(ANY), []
    variants = [(told, chosen, calibrating) for told, chosen in VARIANTS]
    for told, chosen, inputs in [*variants, ("all, people seen once", repair_names(), once)]:
        with TemporaryDirectory() as scratch:
            plan, _ = repaired_plan(graph, inputs, spec, Path(scratch), "kl", chosen)
        found = run(simulate(graph, plan, spec), measured)
        rows.append(judged(backend, told, found))
    return rows


def grainy(graph: Path, measured: list[Any], judged: Row) -> list[Any]:
    """The float network on images with noise, for comparison: evenly distributed, up to so many grey levels."""
    session, random, rows = GraphSession(graph), np.random.default_rng(0), []
    deviation = np.array(simplepose().input.std).reshape(1, 3, 1, 1)
    for levels in (0.5, 1.0):
        feeds = [
            {name: (array + random.uniform(-levels, levels, array.shape) / deviation).astype(np.float32)}
            for feed in measured
            for name, array in feed.items()
        ]
        rows.append(judged("float", f"image noise of {levels} grey levels", run(session, feeds)))
    return rows


def bfloat16(base: Artifact, measured: list[Any], judged: Row) -> list[Any]:
    """The float artifact in OpenVINO's bfloat16, for comparison: its own default where the processor has it."""
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return []
    session = base.open(settings={"precision": "bf16"})
    return [judged("openvino", "none, float in bfloat16", [session.run(feed) for feed in measured])]


def agreement(
    inputs: SearchInputs, plan: Plan, base: Artifact, full: Artifact, dataset: Any, feeds: list[Any], metas: list[Any]
) -> dict[str, str]:
    """The simulation of a plan beside the artifact made of it, for the dataset's people."""
    session = full.open()
    simulated = run(simulate(inputs.source.graph, plan, inputs.spec), feeds)
    pairs = [(a, session.run(feed)) for a, feed in zip(simulated, feeds, strict=True)]
    alike = [correlation(a[name], b[name].reshape(a[name].shape)) for a, b in pairs for name in a]
    floating, runtime = evaluate(base, dataset), evaluate(full, dataset)
    predictions = [
        topdown_pose.decode(outputs, [meta], simplepose())[0] for outputs, meta in zip(simulated, metas, strict=True)
    ]
    scores = [runtime.metrics["AP"]["value"], topdown_pose.score(predictions, dataset, 0)["AP"]["value"]]
    kept = [fidelity(floating, found)["OKS"]["value"] for found in (runtime.predictions, predictions)]
    return {
        "runtime": inputs.backend,
        "correlation, mean": f"{np.mean(alike):.5f}",
        "least": f"{min(alike):.5f}",
        "AP runtime": f"{scores[0]:.4f}",
        "simulated": f"{scores[1]:.4f}",
        "OKS to fp32 runtime": f"{kept[0]:.4f}",
        "OKS simulated": f"{kept[1]:.4f}",
    }


def silent(line: str) -> None:
    """Say nothing."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=HALVES, default="even", help="the half that calibrates")
    parser.add_argument("--to", nargs="+", default=["openvino", "ncnn", "onnxruntime"], dest="backends")
    arguments = parser.parse_args()
    card, halves = simplepose(), {half: half_of(people(), half) for half in HALVES}
    dataset = halves[other(arguments.half)]
    seen = [
        topdown_pose.prepare(dataset.read(sample.image_id), sample, card) for sample in topdown_pose.samples(dataset)
    ]
    metas = [meta for _, meta in seen]
    last = []
    with prepared_source(card, None) as source, TemporaryDirectory() as scratch:
        name = GraphSession(source.graph).input_names[0]
        calibration = Calibration(halves[arguments.half])
        calibrating = [{name: array} for array, _ in calibration_looks(card, calibration)[0]]
        once = calibrating[: len(calibrating) // 2]  # the wider ones follow
        measured = [{name: array[np.newaxis]} for array, _ in seen]
        judged = partial(row, run(GraphSession(source.graph), measured), metas)
        rows = grainy(source.graph, measured, judged)
        for backend in arguments.backends:
            rows += ablation(source.graph, backend, calibrating, once, measured, judged)
            inputs = prepare_inputs(source, backend, calibration)
            plan = full_int8_plan(inputs, repair_names(), Run.new(source.graph.parent, silent)).plan
            base, full = (build_exact(inputs, used, Path(scratch), silent) for used in (None, plan))
            rows += bfloat16(base, measured, judged) if backend == "openvino" else []
            last.append(agreement(inputs, plan, base, full, dataset, measured, metas))
    print(markdown(rows), markdown(last), sep="\n\n")


if __name__ == "__main__":
    main()
