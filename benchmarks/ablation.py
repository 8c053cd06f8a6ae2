"""What each repair and tuned constant of a plan is worth: noise without it, on several networks.

    python benchmarks/ablation.py noise --out noise.jsonl      # repairs left out; constants halved and doubled
    python benchmarks/ablation.py table --out noise.jsonl      # what `noise` has measured so far

Every layer that a runtime can run is in int8, calibrated on 16 inputs of each network (see networks.py) and measured on
16 others, by simulation: power of the outputs over that of the difference, in dB. A cell of the table is the change by
leaving something out or by another value: negative where that costs. `noise` appends to its file and goes on where it
was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from networks import NETWORKS, Network

from sandglass.backends import load_backend
from sandglass.core.processor import ANY
from sandglass.graph.session import GraphSession
from sandglass.quantization.automatic_method import automatic_plan
from sandglass.quantization.output_noise import OutputNoise, decibels, run
from sandglass.quantization.plan import Plan
from sandglass.quantization.repaired_plan import repaired_plan
from sandglass.quantization.repairs import repair_names
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec
from sandglass.table.markdown import markdown

CALIBRATING, MEASURED = 16, 16
BACKENDS = ("onnxruntime", "ncnn")  # activations with a zero point, and without
METHOD = "mse"

# Constants of the plan, by the module that reads them. Each is halved and doubled.
CONSTANTS = {
    "quantization.repairs.compensated_rounding": ("DAMPING", "BLOCK"),
    "quantization.input_rows": ("FLOATS", "MOST_ROWS"),
    "quantization.statistics": ("BINS",),
    "quantization.repairs.output_thresholds": ("ROWS", "HOPELESS"),
    "quantization.repairs.split_channels": ("NARROW",),
    "quantization.repairs.exact_pixels": ("EXACT", "IMAGES"),
}
METHOD_CONSTANTS = {"quantization.thresholds": ("KL_BINS", "KL_EPSILON", "MSE_BINS", "MOST_ERROR")}


@dataclass(frozen=True)
class Trial:
    """One change of the way that a plan is made: repairs that are left out, or a constant with another value."""

    name: str
    without: tuple[str, ...] = ()
    module: str = ""
    constant: str = ""
    factor: float = 1.0
    repairs: bool = True

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The constant has its other value while the context lives."""
        if not self.module:
            yield
            return
        module = import_module(f"sandglass.{self.module}")
        before = getattr(module, self.constant)
        setattr(module, self.constant, type(before)(before * self.factor))
        try:
            yield
        finally:
            setattr(module, self.constant, before)


def trials() -> list[Trial]:
    """All of them; the first is the plan as it is."""
    entries = [Trial("all repairs"), Trial("no repairs", tuple(repair_names()))]
    entries += [Trial(f"without {name}", (name,)) for name in repair_names()]
    for table, repairs in ((CONSTANTS, True), (METHOD_CONSTANTS, False)):
        if not repairs:
            entries.append(Trial("automatic thresholds, no repairs", repairs=False))
        for module, names in table.items():
            for name in names:
                for factor in (0.5, 2.0):
                    label = f"{module.rpartition('.')[2]}.{name} × {factor:g}"
                    entries.append(Trial(label, module=module, constant=name, factor=factor, repairs=repairs))
    return entries


class Case:
    """A network and a backend, with what all trials share: the graph, inputs, and the float network's outputs."""

    def __init__(self, network: Network, backend: str, graph: Path) -> None:
        self.network, self.backend, self.graph = network, backend, graph
        spec = load_backend(backend).SPEC
        assert spec is not None
        self.spec: Spec = spec.on(ANY)
        session = GraphSession(graph)
        name = session.input_names[0]
        inputs = [{name: array} for array in network.inputs(CALIBRATING + MEASURED)]
        self.calibrating, self.measured = inputs[:CALIBRATING], inputs[CALIBRATING:]
        self.expected = run(session, self.measured)

    def decibels(self, trial: Trial) -> float:
        """Signal over noise on the inputs that the plan was not made from."""
        with trial.applied(), TemporaryDirectory() as scratch:
            if not trial.repairs:
                return self._noise(automatic_plan(self.graph, self.calibrating))
            repairs = [name for name in repair_names() if name not in trial.without]
            plan, _ = repaired_plan(self.graph, self.calibrating, self.spec, Path(scratch), METHOD, repairs)
            return self._noise(plan)

    def _noise(self, plan: Plan) -> float:
        outputs = run(simulate(self.graph, plan, self.spec), self.measured)
        return decibels(OutputNoise.of(self.graph).noise(self.expected, outputs))


def measure(out: Path, chosen: Sequence[Trial], networks: Sequence[Network], backends: Sequence[str]) -> None:
    """Append the cells that `out` lacks, a network at a time."""
    known = set(read(out))
    for network in networks:
        with network.graph() as graph:
            for backend in backends:
                missing = [trial for trial in chosen if (trial.name, backend, network.name) not in known]
                case = cache(lambda backend=backend, network=network, graph=graph: Case(network, backend, graph))
                for trial in missing:
                    started = time.monotonic()
                    value = case().decibels(trial)
                    seconds = time.monotonic() - started
                    with out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps([trial.name, backend, network.name, round(value, 3)]) + "\n")
                    print(f"{network.name} {backend}: {trial.name}: {value:.2f} dB in {seconds:.0f} s", flush=True)


def read(out: Path) -> dict[tuple[str, str, str], float]:
    """Decibels by trial, backend and network."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return {(name, backend, network): value for name, backend, network, value in map(json.loads, lines)}


def table(cells: Mapping[tuple[str, str, str], float]) -> list[dict[str, str]]:
    """A row for each trial and backend: decibels of the plan as it is, and changes to it for all others."""
    rows = []
    for backend in dict.fromkeys(backend for _, backend, _ in cells):
        for trial in trials():
            base = "all repairs" if trial.repairs else "automatic thresholds, no repairs"
            row = {"runtime": backend, "trial": trial.name}
            for network in NETWORKS:
                value = cells.get((trial.name, backend, network.name))
                usual = cells.get((base, backend, network.name))
                if value is not None and usual is not None:
                    row[network.name] = f"{value:.1f}" if trial.name == base else f"{value - usual:+.1f}"
            rows.append(row)
    return rows


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("noise", "table"))
    parser.add_argument("--out", type=Path, default=Path("noise.jsonl"))
    parser.add_argument("--of", choices=("repairs", "constants"), nargs="+", default=["repairs", "constants"])
    parser.add_argument("--networks", nargs="+", default=[network.name for network in NETWORKS])
    parser.add_argument("--to", nargs="+", default=BACKENDS, dest="backends")
    arguments = parser.parse_args()
    if arguments.what == "noise":
        chosen = [trial for trial in trials() if ("constants" if trial.module else "repairs") in arguments.of]
        networks = [network for network in NETWORKS if network.name in arguments.networks]
        measure(arguments.out, chosen, networks, arguments.backends)
    print(markdown(table(read(arguments.out))))


if __name__ == "__main__":
    main()
