"""The fastest settings of a runtime on this machine: coordinate descent, candidates timed in turn in short bursts.

One knob after the other is tried: all its values are timed together with the best before it, each in a process of its
own. A value is kept when it is faster by more than the noise and computes the same. At the end the best is timed again
together with the defaults.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from msgspec import structs

from sandglass.artifacts.artifact import Artifact
from sandglass.artifacts.parity import FLOAT_TOLERANCE, SAMPLES
from sandglass.artifacts.tuned_settings import GOALS, TUNING, Tuned, processor_kind, write_tuned
from sandglass.backends import OfferedSettings, Settings, SettingValue, load_backend
from sandglass.core import host
from sandglass.core.compare import correlation, relative_difference
from sandglass.core.errors import ArtifactError, InputError, SandglassError
from sandglass.core.json_values import JsonRecord
from sandglass.core.locks import locked_folder
from sandglass.core.progress import Say
from sandglass.core.records import to_data
from sandglass.measure.interleaved import BURST_SECONDS, ROUNDS, Configuration, Lane, race

FINAL_SHARE = 0.2  # of the time, for the comparison with the defaults
MARGIN = 1.03  # a smaller gain is noise
BUSY = 0.5  # share of the threads in use before the search: above it the result is reported as unreliable
BATCHES = (1, 2, 4, 8)
Knob = tuple[str, tuple[SettingValue, ...]]  # a name, and the values that are tried
# The integers are the same under any setting: only float layers and rounding between them may differ.
INTEGER_CORRELATION = 0.999


@dataclass(frozen=True)
class Trial:
    """One candidate: milliseconds of a batch, images per second over all processes, and what became of it.

    `ratio` is how many times faster than the best before it, paired by rounds. Numbers are None where it was not timed.
    """

    changed: str
    threads: int
    batch: int
    processes: int
    settings: Settings
    verdict: str
    milliseconds: float | None = None
    throughput: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Tuning:
    """What was tried, in order, and what was stored; `load` is how many threads the machine ran before."""

    artifact: Artifact
    trials: tuple[Trial, ...]
    best: Tuned
    seconds: float
    untried: tuple[str, ...]
    load: float = 0.0

    def to_dict(self) -> JsonRecord:
        """JSON-able result with the conditions of the measurement."""
        return {
            "artifact": str(self.artifact.folder),
            "artifact_sha256": self.artifact.sha256,
            "processor": processor_kind(),
            "best": to_data(self.best),
            "trials": [asdict(trial) for trial in self.trials],
            "untried": list(self.untried),
            "seconds": round(self.seconds, 1),
            "load_before": round(self.load, 2),
            "host": host.describe(),
        }


def tune(artifact: Artifact, *, goal: str = "latency", seconds: float = 60.0, say: Say = lambda line: None) -> Tuning:
    """Search for about `seconds`, and store the best next to the artifact for this kind of processor.

    Raises InputError for an unknown goal, BusyError where another run tunes the artifact, and the SandglassError of an
    artifact that does not run with its defaults.
    """
    if goal not in GOALS:
        raise InputError(f"unknown goal {goal!r}", f"known: {', '.join(GOALS)}")
    backend = load_backend(artifact.backend)
    backend.available()
    if not os.access(artifact.folder, os.W_OK):
        raise ArtifactError(f"cannot write {artifact.folder / TUNING}", "tune a copy in a folder that can be written")
    with locked_folder(artifact.folder):
        started, load = time.perf_counter(), host.load()
        search = _Search(artifact, goal, started + seconds * (1 - FINAL_SHARE), say)
        try:
            for name, values in knobs(backend.SETTINGS, goal):
                search.turn(name, values)
        finally:
            search.base.close()
        best = search.final(max(seconds * FINAL_SHARE, started + seconds - time.perf_counter()))
        write_tuned(artifact.folder, artifact.sha256, best)
    return Tuning(artifact, tuple(search.trials), best, time.perf_counter() - started, tuple(search.untried), load)


def knobs(offered: OfferedSettings, goal: str) -> list[Knob]:
    """What is tried, in order, without the defaults: threads, the runtime's settings, batch, processes."""
    threads = host.threads()
    powers = [2**i for i in range(threads.bit_length()) if 2**i < threads]
    turned: list[Knob] = [("threads", tuple(reversed(powers)))]
    if goal == "throughput" and "streams" in offered:
        turned.insert(0, ("streams", offered["streams"][1:]))  # first: streams share the threads, and want them all
    turned += [(name, values[1:]) for name, values in offered.items() if name != "streams"]
    if goal == "throughput":
        turned += [("batch", BATCHES[1:]), ("processes", tuple(p for p in (*powers[1:], threads) if p > 1))]
    return turned


def changed(best: Configuration, name: str, value: SettingValue) -> Configuration:
    """A configuration with one knob turned. Streams need a batch that keeps them busy; processes share the threads."""
    if name == "threads":
        return replace(best, threads=int(value))
    if name == "batch":
        return replace(best, batch=int(value))
    if name == "processes":
        alone = {key: setting for key, setting in best.settings.items() if key != "streams"}
        batch = 1 if "streams" in best.settings else best.batch
        return Configuration(max(1, host.threads() // int(value)), batch, int(value), alone)
    batch = max(best.batch, 2 * int(value)) if name == "streams" else best.batch
    return replace(best, batch=batch, settings={**best.settings, name: value})


def disagreement(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], precision: str) -> str:
    """Why results differ too much from those of the defaults, or ""."""
    for name, reference in expected.items():
        result = actual[name]
        difference, agreement = relative_difference(reference, result), correlation(reference, result)
        if not np.isfinite(difference):
            return "its result is not finite"
        if precision == "fp32" and difference > FLOAT_TOLERANCE:
            return f"its result differs by {difference:.1e} of the largest value, allowed is {FLOAT_TOLERANCE:g}"
        if precision != "fp32" and agreement < INTEGER_CORRELATION:
            return f"its result correlates by {agreement:.4f}, allowed is {INTEGER_CORRELATION:g}"
    return ""


def is_better(ratios: np.ndarray) -> bool:
    """Whether a lane is faster by more than the noise: in the middle round by MARGIN, and in three of four at all."""
    return float(np.median(ratios)) >= MARGIN and float(np.percentile(ratios, 25)) > 1


def summary(tuning: Tuning) -> list[str]:
    """The outcome in a few lines."""
    best, unit = tuning.best, "times the speed" if tuning.best.goal == "latency" else "times the images per second"
    if best.gain > 1:
        low, high = best.measured["gain_90"]
        settings = "".join(f", {name} {value}" for name, value in best.settings.items())
        lines = [
            f"best for {best.goal}: {best.threads} threads, batch {best.batch}{settings}: "
            f"{best.gain:.2f} {unit} of the defaults ({low:.2f} .. {high:.2f} over rounds)"
        ]
    else:
        lines = [f"the defaults are already the best for {best.goal}"]
        if best.measured:
            low, high = best.measured["gain_90"]
            lines[0] += (
                f": the best other gave {best.measured['gain']:.2f} {unit} ({low:.2f} .. {high:.2f} over rounds)"
            )
    if best.advice:
        lines.append(
            f"advice, for the program that calls the runtime: {best.advice['processes']} processes of "
            f"{best.advice['threads']} threads each give {best.advice['gain']:.2f} {unit} of the defaults together"
        )
    if tuning.load > BUSY * host.threads():
        lines.append(
            f"unreliable: the machine was busy with {tuning.load:.1f} threads of {host.threads()} before this began; "
            "tune again when it is quiet"
        )
    if tuning.untried:
        lines.append(f"out of time before {', '.join(tuning.untried)}: give more --seconds")
    lines.append(f"kept in {tuning.artifact.folder / TUNING} for {processor_kind()}")
    return lines


class _Search:
    """Where the descent stands: the best lane, which stays open, and what was tried."""

    def __init__(self, artifact: Artifact, goal: str, deadline: float, say: Say) -> None:
        self.artifact, self.goal, self.deadline, self.say = artifact, goal, deadline, say
        self.default = Configuration(host.threads())
        self.crowd: Configuration | None = None
        self.untried: list[str] = []
        self.base = Lane(artifact, self.default)
        try:
            self.expected = self.base.workers[0].outputs(SAMPLES)
            self.base.burst(BURST_SECONDS)
        except SandglassError:
            self.base.close()
            raise
        self.trials = [self._trial("the defaults", self.base, "", None)]

    def turn(self, name: str, values: Sequence[SettingValue]) -> None:
        """Time the values of one knob together with the best before them, and keep the fastest if it is faster."""
        if time.perf_counter() > self.deadline:
            self.untried.append(name)
            return
        lanes: dict[SettingValue, Lane] = {}
        winner = None
        try:
            for value in values:
                how = changed(self.base.how, name, value)
                lane = self._open(f"{name} {value}", how) if how != self.base.how else None
                if lane is not None:
                    lanes[value] = lane
            race(self.base, list(lanes.values()), self.goal, self.deadline)
            for value in [value for value, lane in lanes.items() if lane.error]:
                self._drop(f"{name} {value}", lanes.pop(value))
            ratios = {value: lane.ratios(self.base, self.goal) for value, lane in lanes.items()}
            fastest = max(ratios, key=lambda value: float(np.median(ratios[value])), default=None)
            for value, lane in lanes.items():
                better, gain = is_better(ratios[value]), float(np.median(ratios[value]))
                winner = lane if better and value == fastest else winner
                verdict = "kept" if lane is winner else "faster, not the fastest" if better else "no faster"
                self.trials.append(self._trial(f"{name} {value}", lane, verdict, gain))
                self.say(f"tune: {name} {value}: {gain:.2f} times the best before, {verdict}")
        finally:
            for lane in lanes.values():
                if lane is not winner or name == "processes":
                    lane.close()
        if winner is not None and name == "processes":
            self.crowd = winner.how
        elif winner is not None:
            self.base.close()
            self.base = winner

    def final(self, seconds: float) -> Tuned:
        """The best, and several processes where they were better, timed with the defaults; a gain must hold there."""
        self.say("tune: the best, together with the defaults")
        candidates = [how for how in (self.base.how, self.crowd) if how is not None and how != self.default]
        lanes: list[Lane] = []
        try:
            for how in (self.default, *candidates):
                lanes.append(Lane(self.artifact, how))
            rounds = max(ROUNDS, int(seconds / (BURST_SECONDS * len(lanes))))
            race(lanes[0], lanes[1:], self.goal, time.perf_counter() + seconds, rounds)
        finally:
            for lane in lanes:
                lane.close()
        best, advice = Tuned(self.goal, self.default.threads), {}
        for lane in (lane for lane in lanes[1:] if lane.error is None):
            ratios, how = lane.ratios(lanes[0], self.goal), lane.how
            gain = round(float(np.median(ratios)), 3)
            if how.processes > 1:
                if gain >= MARGIN * best.gain:
                    advice = {"processes": how.processes, "threads": how.threads, "gain": gain}
                continue
            interval = [round(float(value), 3) for value in np.percentile(ratios, (5, 95))]
            measured = {"gain": gain, "gain_90": interval, "defaults": lanes[0].middle(), "best": lane.middle()}
            best = structs.replace(best, measured=measured)
            if is_better(ratios):
                best = structs.replace(
                    best, threads=how.threads, batch=how.batch, settings=dict(how.settings), gain=gain
                )
        return structs.replace(best, advice=advice)

    def _open(self, label: str, how: Configuration) -> Lane | None:
        """A lane that computes the same as the defaults; else None, and a trial that says why not."""
        lane = None
        try:
            lane = Lane(self.artifact, how)
            problem = disagreement(self.expected, lane.workers[0].outputs(SAMPLES), self.artifact.precision)
            why = f"refused: {problem}" if problem else ""
        except SandglassError as error:
            why = f"failed: {error.message}"
        if not why:
            return lane
        if lane is not None:
            lane.close()
        self._refuse(label, how, why)
        return None

    def _drop(self, label: str, lane: Lane) -> None:
        """A lane that failed while it was timed."""
        lane.close()
        self._refuse(label, lane.how, f"failed: {lane.error.message if lane.error else ''}")

    def _refuse(self, label: str, how: Configuration, why: str) -> None:
        self.say(f"tune: {label}: {why}")
        self.trials.append(Trial(label, how.threads, how.batch, how.processes, how.settings, why))

    def _trial(self, label: str, lane: Lane, verdict: str, ratio: float | None) -> Trial:
        how, numbers = lane.how, lane.middle()
        return Trial(
            label, how.threads, how.batch, how.processes, how.settings, verdict, **numbers,
            ratio=None if ratio is None else round(ratio, 3),
        )  # fmt: skip
