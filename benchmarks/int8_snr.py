"""Full networks in int8 by Sandglass and by other tools: signal-to-noise ratio of the runtimes' outputs.

    pip install nncf
    python benchmarks/int8_snr.py [--networks ResNet-20 PFLD] [--out snr.jsonl]

Each network (see networks.py) is calibrated on 16 inputs and measured on 16 others, with the files that each tool
wrote, in the plain runtime with default options. A cell is the mean in dB over inputs and parts of the outputs (see
`sandglass.graph.output_parts`) and, for Sandglass, the share of the multiply-accumulates in int8. Sandglass makes the
plan of `sandglass deploy`; without a task the noise at the outputs decides. The others are nncf.quantize with its
defaults and with the mixed preset and accurate bias correction, and quantize_static per channel with three methods,
with and without a reduced range of weights; the better one of a tool is shown with its settings.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from networks import NETWORKS, Network
from rivals import Given, nncf_model, ort_model

from sandglass.artifacts import parity
from sandglass.core.errors import SandglassError
from sandglass.datasets import synthetic_people
from sandglass.graph.session import GraphSession
from sandglass.quantization.calibration import Calibration
from sandglass.quantization.output_noise import OutputNoise, decibels
from sandglass.quantization.repairs import repair_names
from sandglass.search.default_plan import acceptable_plan
from sandglass.search.inputs import Arrays, search_inputs
from sandglass.search.run import Run
from sandglass.search.trials import build_exact, full_int8_plan
from sandglass.sources.card import Card, Input
from sandglass.sources.source import Source
from sandglass.table.markdown import markdown
from sandglass.tasks import View

CALIBRATING, MEASURED = 16, 16
BACKENDS = ("onnxruntime", "openvino", "ncnn")
Runner = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Case:
    """A network with its inputs, and the float network's outputs for those that are measured."""

    network: Network
    source: Source
    input_name: str
    calibrating: Sequence[np.ndarray]
    measured: Sequence[Arrays]
    expected: Sequence[Arrays]

    @staticmethod
    def of(network: Network, graph: Path) -> Case:
        """The case for the brought-up graph of a network."""
        session = GraphSession(graph)
        name = session.input_names[0]
        arrays = network.inputs(CALIBRATING + MEASURED)
        measured = [{name: array} for array in arrays[CALIBRATING:]]
        prepared = Input(network.size, *network.scaling)
        card = Card(network.name.lower().replace(" ", "-"), "classification", prepared, graph=graph)
        expected = [session.run(feed) for feed in measured]
        return Case(network, Source(card, graph), name, arrays[:CALIBRATING], measured, expected)

    def snr(self, run: Runner) -> float:
        """The signal-to-noise ratio of a model in dB, the mean over inputs and parts of the outputs."""
        outputs = [run(feed) for feed in self.measured]
        return decibels(OutputNoise.of(self.source.graph).noise(self.expected, outputs))


def ours(case: Case, backend: str, folder: Path) -> tuple[float, str]:
    """The ratio of the default plan's artifact, and how much of it runs in int8."""
    looks = [(array, View(image_id=0)) for array in case.calibrating]
    reference = parity.Reference(case.source, case.calibrating)
    calibration = Calibration(synthetic_people.load(limit=1))
    inputs = replace(search_inputs(case.source, backend, calibration, (looks, []), reference), decodes=False)
    run = Run.new(folder, lambda line: None)
    plan = acceptable_plan(inputs, full_int8_plan(inputs, repair_names(), run), run)
    artifact = build_exact(inputs, plan, folder, lambda line: None)
    session = artifact.open()
    return case.snr(session.run), f"{artifact.manifest.check.int8_share or 0:.0%}"


def rivals(case: Case, folder: Path) -> Iterator[tuple[str, str, Runner]]:
    """Models of other tools: the runtime, the settings, and a function that runs the model."""
    import nncf
    from onnxruntime.quantization import CalibrationMethod as Method

    given = Given(case.source, case.input_name, synthetic_people.load(limit=1), case.calibrating)
    best = {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False}
    for settings, options in (("defaults", {}), ("mixed, accurate bias correction", best)):
        (part := folder / f"nncf-{len(options)}").mkdir()
        nncf_model(given, part, options)
        yield "openvino", f"nncf {settings}", _openvino(part / "model.xml")
    for method in (Method.MinMax, Method.Entropy, Method.Percentile):
        for reduced in (False, True):
            (part := folder / f"ort-{method.name}-{reduced}").mkdir()
            ort_model(given, part, {"per_channel": True, "calibrate_method": method, "reduce_range": reduced})
            settings = f"quantize_static {method.name}{', reduced range' if reduced else ''}"
            yield "onnxruntime", settings, _onnxruntime(part / "model.onnx")


def _openvino(path: Path) -> Runner:
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feed: {output.any_name: value for output, value in model(dict(feed)).items()}


def _onnxruntime(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


def measure(network: Network) -> Iterator[dict[str, Any]]:
    """One row for each model of a network."""
    with network.graph() as graph, TemporaryDirectory() as scratch:
        case = Case.of(network, graph)
        for backend in BACKENDS:
            (folder := Path(scratch) / backend).mkdir()
            started = time.monotonic()
            try:
                value, share = ours(case, backend, folder)
            except SandglassError as error:
                value, share = float("nan"), f"refused: {error}"
            yield row(network, backend, "sandglass deploy", value, share, time.monotonic() - started)
        started = time.monotonic()
        for backend, settings, run in rivals(case, Path(scratch)):
            yield row(network, backend, settings, case.snr(run), "", time.monotonic() - started)
            started = time.monotonic()


def row(network: Network, backend: str, tool: str, value: float, share: str, seconds: float) -> dict[str, Any]:
    """A measurement as JSON data."""
    return {"network": network.name, "backend": backend, "tool": tool, "snr_db": round(value, 2), "int8": share,
            "seconds": round(seconds, 1)}  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row for each network: ours on each runtime, and the best of the others on theirs."""
    lines = []
    for name in dict.fromkeys(entry["network"] for entry in rows):
        line = {"network": name}
        for backend in BACKENDS:
            found = [entry for entry in rows if entry["network"] == name and entry["backend"] == backend]
            mine = [entry for entry in found if entry["tool"].startswith("sandglass")]
            others = [entry for entry in found if entry not in mine and not np.isnan(entry["snr_db"])]
            line[backend] = ", ".join(f"{entry['snr_db']:.1f} ({entry['int8']})" for entry in mine)
            if others:
                best = max(others, key=lambda entry: float(entry["snr_db"]))
                line[f"best other on {backend}"] = f"{best['snr_db']:.1f} ({best['tool']})"
        lines.append(line)
    return lines


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=[network.name for network in NETWORKS])
    parser.add_argument("--out", type=Path, default=Path("snr.jsonl"), help="rows are appended; known networks stay")
    arguments = parser.parse_args()
    lines = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    rows = [json.loads(line) for line in lines]
    known = {entry["network"] for entry in rows}
    for network in NETWORKS:
        if network.name in arguments.networks and network.name not in known:
            for entry in measure(network):
                print(entry, flush=True)
                rows.append(entry)
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(entry) + "\n")
    print(markdown(table(rows)))


if __name__ == "__main__":
    main()
