"""Is it really int8? What a runtime executes of an artifact, layer by layer, with the time each takes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from sandglass.artifacts.artifact import Artifact, load_artifact
from sandglass.backends import INT8, LayerRun, load_backend
from sandglass.core import host
from sandglass.core.errors import InputError
from sandglass.core.json_values import JsonRecord
from sandglass.core.process import run_isolated

ROUNDS = 3  # artifacts are profiled in turn; of each layer the quietest round counts
WHOLE_RUNS = 10
SLOWER, NOTICEABLE = 1.05, 0.01  # times, and milliseconds
FEW_TERMS = 32
# Steps of 8-bit grids: what lies outside saw NaN-like activations or nothing at all.
SMALLEST_STEP, LARGEST_STEP = 1e-7, 1e3
DEAD_STEP = 1e-12
UNEVEN = 1e-4


@dataclass(frozen=True)
class Inspection:
    """The layers of one artifact in the order they run, on `threads` threads under default settings.

    `milliseconds` is the median of whole runs without a profiler; `against` is a float artifact inspected with it.
    """

    artifact: Artifact
    runs: tuple[LayerRun, ...]
    threads: int
    milliseconds: float
    against: Inspection | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(run.macs for run in self.runs)

    @property
    def integer_share(self) -> float:
        """Share of the multiply-accumulates that run in int8, 0 to 1."""
        return sum(run.macs for run in self.runs if run.arithmetic == INT8) / max(1, self.macs)

    @property
    def time(self) -> float | None:
        """Sum of the layers' times in milliseconds; None where the runtime has no timer."""
        times = [run.milliseconds for run in self.runs if run.milliseconds is not None]
        return sum(times) if times else None

    def time_share(self, *, integer: bool) -> float | None:
        """Share of the layers' time that goes to int8 (or float) layers with weights, 0 to 1."""
        if not self.time:
            return None
        chosen = [run for run in self.runs if run.macs and (run.arithmetic == INT8) == integer]
        return sum(run.milliseconds or 0.0 for run in chosen) / self.time

    def layer_times(self) -> dict[str, float]:
        """Milliseconds of the layers with weights, by name; of those that the runtime times."""
        return {run.name: run.milliseconds for run in self.runs if run.macs and run.milliseconds is not None}

    def float_times(self) -> dict[str, float]:
        """The `layer_times` of the float artifact."""
        return self.against.layer_times() if self.against else {}

    def slower(self) -> dict[str, str]:
        """Why int8 layers are slower than the same layers of the float artifact, by name."""
        known = self.float_times()
        return {
            run.name: slower_reason(run)
            for run in self.runs
            if run.arithmetic == INT8 and _is_slower(run.milliseconds, known.get(run.name))
        }

    def to_dict(self) -> JsonRecord:
        """JSON-able result with the conditions of the measurement."""
        slower = self.slower()
        return {
            "artifact": str(self.artifact.folder),
            "artifact_sha256": self.artifact.sha256,
            "backend": self.artifact.backend,
            "precision": self.artifact.precision,
            "threads": self.threads,
            "milliseconds": self.milliseconds,
            "macs": self.macs,
            "int8_share_of_macs": self.integer_share,
            "int8_share_of_time": self.time_share(integer=True),
            "layers": [
                {
                    **{key: value for key, value in asdict(run).items() if key != "steps"},
                    "scales": scale_problem(run.steps),
                    "float_milliseconds": self.float_times().get(run.name) if run.macs else None,
                    "slower_because": slower.get(run.name, "") if run.macs else "",
                }
                for run in self.runs
            ],
            "against": self.against.to_dict() if self.against else None,
            "host": host.describe(),
        }


def inspect(artifact: Artifact, *, threads: int | None = None, against: Artifact | None = None) -> Inspection:
    """Run an artifact under its runtime's profiler, together with the float artifact `against` where one is given.

    They run in a process of their own. Raises InputError when `against` is not a float artifact of the same graph,
    and the BackendError of a runtime that fails, crashes or hangs.
    """
    artifacts = [artifact] if against is None else [artifact, against]
    if against is not None:
        _check_pair(artifact, against)
    threads = threads or host.threads()
    name = " and ".join(str(entry.folder) for entry in artifacts)
    rounds, wholes = run_isolated(name, _measured, [entry.folder for entry in artifacts], threads)
    inspections = [
        Inspection(entry, quietest([row[i] for row in rounds]), threads, wholes[i]) for i, entry in enumerate(artifacts)
    ]
    return inspections[0] if against is None else replace(inspections[0], against=inspections[1])


def scale_problem(steps: Sequence[float]) -> str:
    """What is wrong with the steps of a layer (its input's first, then its weights'), or ""."""
    if not steps:
        return ""
    first, weights = steps[0], np.array(steps[1:], np.float64)
    if not np.isfinite(first) or first <= DEAD_STEP:
        return f"the scale of its input is {'dead' if np.isfinite(first) else 'infinite'}: {first:g}"
    if not np.isfinite(weights).all():
        return f"{int((~np.isfinite(weights)).sum())} of {weights.size} channels have an infinite scale"
    problems = []
    if not SMALLEST_STEP <= first <= LARGEST_STEP:
        problems.append(f"its input is rounded in steps of {first:.1e}")
    if dead := int((weights <= DEAD_STEP).sum()):
        problems.append(f"{dead} of {weights.size} channels are dead: their weights are 0")
    alive = weights[weights > DEAD_STEP]
    if alive.size and (faint := int((alive < UNEVEN * np.median(alive)).sum())):
        problems.append(f"{faint} of {weights.size} channels are nearly dead")
    return "; ".join(problems)


def slower_reason(run: LayerRun) -> str:
    """Why an int8 layer may be slower than the float one."""
    if run.note:
        return run.note
    if run.terms < FEW_TERMS:
        return f"only {run.terms} products make an output: rounding and rescaling cost more than they save"
    return "no reason known; measure again on a quiet machine"


def summary(inspection: Inspection) -> list[str]:
    """The answer in a few lines."""
    share, millions = 100 * inspection.integer_share, inspection.macs / 1e6
    lines = [f"{share:.1f} % of {millions:.1f} million multiply-accumulates run in int8"]
    integer, floats = inspection.time_share(integer=True), inspection.time_share(integer=False)
    if integer is None or floats is None:
        lines.append("this runtime cannot time its layers")
    else:
        rest = 1 - integer - floats
        lines.append(
            f"time: {100 * integer:.0f} % in int8 layers, {100 * floats:.0f} % in float layers, "
            f"{100 * rest:.0f} % in what has no weights"
        )
    lines.append(f"a whole run takes {inspection.milliseconds:.2f} ms on {inspection.threads} threads")
    if troubled := [run.name for run in inspection.runs if scale_problem(run.steps)]:
        lines.append(f"scales: {len(troubled)} layers have dead, infinite or absurd ones: {', '.join(troubled[:5])}")
    if inspection.against is not None:
        ratio = inspection.milliseconds / inspection.against.milliseconds
        slower, known = inspection.slower(), inspection.float_times()
        lost = sum(
            (run.milliseconds or 0) - known[run.name] for run in inspection.runs if run.macs and run.name in slower
        )
        lines.append(f"{ratio:.2f} times the latency of float ({inspection.against.milliseconds:.2f} ms)")
        lines.append(f"{len(slower)} int8 layers are slower than float and lose {lost:.2f} ms together")
    return lines


def _is_slower(integer: float | None, floats: float | None) -> bool:
    return integer is not None and floats is not None and integer > max(SLOWER * floats, floats + NOTICEABLE)


def _check_pair(artifact: Artifact, against: Artifact) -> None:
    if against.precision != "fp32":
        raise InputError(f"{against.folder} is {against.precision}, expected a float artifact", "give an fp32 one")
    if against.manifest.graph_sha256 != artifact.manifest.graph_sha256:
        raise InputError(f"{against.folder} and {artifact.folder} are of different graphs", "deploy both together")


def _measured(folders: Sequence[Path], threads: int) -> tuple[list[list[list[LayerRun]]], list[float]]:
    """The layers of each artifact in each round, and milliseconds of its whole runs."""
    artifacts = [load_artifact(folder) for folder in folders]
    rounds = [[_profile(artifact, threads) for artifact in artifacts] for _ in range(ROUNDS)]
    return rounds, _whole(artifacts, threads)


def _profile(artifact: Artifact, threads: int) -> list[LayerRun]:
    backend = load_backend(artifact.backend)
    backend.available()
    return backend.layers(*artifact.files(), threads, artifact.noise())


def quietest(rounds: Sequence[Sequence[LayerRun]]) -> tuple[LayerRun, ...]:
    """Every kernel with the least of its times. What takes no time on a runtime's clock may be missing in a round."""
    kernels: defaultdict[tuple[str, str, int], list[LayerRun]] = defaultdict(list)
    for runs in sorted(rounds, key=len, reverse=True):
        seen: Counter[tuple[str, str]] = Counter()
        for run in runs:
            seen[run.name, run.operator] += 1
            kernels[run.name, run.operator, seen[run.name, run.operator]].append(run)
    return tuple(replace(same[0], milliseconds=_least(same)) for same in kernels.values())


def _least(same: Sequence[LayerRun]) -> float | None:
    return min((run.milliseconds for run in same if run.milliseconds is not None), default=None)


def _whole(artifacts: Sequence[Artifact], threads: int) -> list[float]:
    sessions = [(entry.open(threads, {}), entry.noise()) for entry in artifacts]
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(WHOLE_RUNS + 1):
        for (session, inputs), collected in zip(sessions, times, strict=True):
            started = time.perf_counter()
            session.run(inputs)
            if turn:  # the first one allocates
                collected.append(time.perf_counter() - started)
    return [float(np.median(collected)) * 1e3 for collected in times]
