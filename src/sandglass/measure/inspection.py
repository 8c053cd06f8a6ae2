"""Is it really int8? The layers of an artifact as its runtime executes them, with their times."""

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

ROUNDS = 3  # rounds of profiling, with the artifacts in turns; the fastest round of each layer counts
WHOLE_RUNS = 10  # runs without a profiler
SLOWER = 1.05  # ratio to the float time above which an int8 layer counts as slower
NOTICEABLE = 0.01  # milliseconds by which it also has to be slower
FEW_TERMS = 32  # products in an output value below which int8 can hardly save time
SMALLEST_STEP, LARGEST_STEP = 1e-7, 1e3  # plausible steps of an 8-bit activation
DEAD_STEP = 1e-12  # step of a tensor or channel that is always 0
UNEVEN = 1e-4  # ratio to the median step of the weights below which a channel is nearly 0


@dataclass(frozen=True)
class Inspection:
    """The layers of one artifact in the order in which they run, on `threads` threads with default settings.

    `milliseconds` is the median of whole runs without a profiler. `against` is the inspection of a float artifact that
    was measured together with this one.
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
        """Sum of the layers' times in milliseconds; None if the runtime does not report times."""
        times = [run.milliseconds for run in self.runs if run.milliseconds is not None]
        return sum(times) if times else None

    def time_share(self, *, integer: bool) -> float | None:
        """Share of the layers' time in int8 (or float) layers with weights, 0 to 1; None without times."""
        if not self.time:
            return None
        chosen = [run for run in self.runs if run.macs and (run.arithmetic == INT8) == integer]
        return sum(run.milliseconds or 0.0 for run in chosen) / self.time

    def layer_times(self) -> dict[str, float]:
        """Milliseconds of the layers with weights, by name, if the runtime reports them."""
        return {run.name: run.milliseconds for run in self.runs if run.macs and run.milliseconds is not None}

    def float_times(self) -> dict[str, float]:
        """The `layer_times` of the float artifact."""
        return self.against.layer_times() if self.against else {}

    def slower(self) -> dict[str, str]:
        """The int8 layers that are slower than the same layer of the float artifact, by name, with the reason."""
        float_times = self.float_times()
        return {
            run.name: slower_reason(run)
            for run in self.runs
            if run.arithmetic == INT8 and _is_slower(run.milliseconds, float_times.get(run.name))
        }

    def to_dict(self) -> JsonRecord:
        """The result as JSON data, with the conditions of the measurement."""
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
    """Run an artifact with its runtime's profiler, together with the float artifact `against` if it is given.

    `threads` is the number of threads (default: one for each core). The artifacts run in a separate process. Raises
    InputError if `against` is not a float artifact of the same graph, and the BackendError of a runtime that fails,
    crashes or hangs.
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
    """The problem with the steps of a layer, or "" if there is none.

    `steps` holds the step of the input, and then the steps of the weights of each channel.
    """
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
    """A likely reason why an int8 layer is slower than in float."""
    if run.note:
        return run.note
    if run.terms < FEW_TERMS:
        return f"an output is the sum of only {run.terms} products: rounding and rescaling cost more than int8 saves"
    return "no known reason; measure again on a quiet machine"


def summary(inspection: Inspection) -> list[str]:
    """The result in a few lines of text."""
    share, millions = 100 * inspection.integer_share, inspection.macs / 1e6
    lines = [f"{share:.1f} % of {millions:.1f} million multiply-accumulates run in int8"]
    integer, floats = inspection.time_share(integer=True), inspection.time_share(integer=False)
    if integer is None or floats is None:
        lines.append("this runtime does not report the times of layers")
    else:
        rest = 1 - integer - floats
        lines.append(
            f"time: {100 * integer:.0f} % in int8 layers, {100 * floats:.0f} % in float layers, "
            f"{100 * rest:.0f} % in operators without weights"
        )
    lines.append(f"a whole run takes {inspection.milliseconds:.2f} ms on {inspection.threads} threads")
    if troubled := [run.name for run in inspection.runs if scale_problem(run.steps)]:
        lines.append(
            f"scales: {len(troubled)} layers have a scale of 0, infinity or an odd size: {', '.join(troubled[:5])}"
        )
    if inspection.against is not None:
        ratio = inspection.milliseconds / inspection.against.milliseconds
        slower, float_times = inspection.slower(), inspection.float_times()
        slower_runs = [run for run in inspection.runs if run.macs and run.name in slower]
        lost = sum((run.milliseconds or 0) - float_times[run.name] for run in slower_runs)
        lines.append(f"{ratio:.2f} times the latency of float ({inspection.against.milliseconds:.2f} ms)")
        lines.append(f"{len(slower)} int8 layers are slower than in float; together they lose {lost:.2f} ms")
    return lines


def _is_slower(integer: float | None, floats: float | None) -> bool:
    return integer is not None and floats is not None and integer > max(SLOWER * floats, floats + NOTICEABLE)


def _check_pair(artifact: Artifact, against: Artifact) -> None:
    if against.precision != "fp32":
        raise InputError(f"{against.folder} is {against.precision}, expected fp32", "name an fp32 artifact")
    if against.manifest.graph_sha256 != artifact.manifest.graph_sha256:
        raise InputError(f"{against.folder} and {artifact.folder} have different graphs", "deploy both together")


def _measured(folders: Sequence[Path], threads: int) -> tuple[list[list[list[LayerRun]]], list[float]]:
    """The layers of each artifact in each round, and the milliseconds of a whole run of each artifact."""
    artifacts = [load_artifact(folder) for folder in folders]
    rounds = [[_profile(artifact, threads) for artifact in artifacts] for _ in range(ROUNDS)]
    return rounds, _whole(artifacts, threads)


def _profile(artifact: Artifact, threads: int) -> list[LayerRun]:
    backend = load_backend(artifact.backend)
    backend.available()
    return backend.layers(*artifact.files(), threads, artifact.noise())


def quietest(rounds: Sequence[Sequence[LayerRun]]) -> tuple[LayerRun, ...]:
    """Each kernel with its least time over the rounds.

    A kernel that takes no measurable time may be missing in a round. A layer may have several kernels of one operator:
    their order distinguishes them.
    """
    kernels: defaultdict[tuple[str, str, int], list[LayerRun]] = defaultdict(list)
    for runs in sorted(rounds, key=len, reverse=True):
        counts: Counter[tuple[str, str]] = Counter()
        for run in runs:
            counts[run.name, run.operator] += 1
            kernels[run.name, run.operator, counts[run.name, run.operator]].append(run)
    return tuple(replace(repeats[0], milliseconds=_least(repeats)) for repeats in kernels.values())


def _least(runs: Sequence[LayerRun]) -> float | None:
    return min((run.milliseconds for run in runs if run.milliseconds is not None), default=None)


def _whole(artifacts: Sequence[Artifact], threads: int) -> list[float]:
    sessions = [(entry.open(threads, {}), entry.noise()) for entry in artifacts]
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(WHOLE_RUNS + 1):
        for (session, inputs), collected in zip(sessions, times, strict=True):
            started = time.perf_counter()
            session.run(inputs)
            if turn:  # the first run allocates memory and does not count
                collected.append(time.perf_counter() - started)
    return [float(np.median(collected)) * 1e3 for collected in times]
