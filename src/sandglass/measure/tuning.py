"""The fastest settings of a runtime on this machine, by coordinate descent.

One setting after the other is tuned: all its values are timed together with the best configuration so far, in short
bursts in turns, each in a process of its own. A value is chosen if it is faster by more than the noise and computes the
same. At the end the best configuration is timed again together with the defaults.
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

FINAL_SHARE = 0.2  # share of the time for the comparison with the defaults
MARGIN = 1.03  # ratio of speeds below which a gain counts as noise
BUSY = 0.5  # share of the threads in use before the search above which the result is reported as unreliable
BATCHES = (1, 2, 4, 8)
Knob = tuple[str, tuple[SettingValue, ...]]  # the name of a setting, and the values to compare
# Least correlation of int8 or fp16 results with those of the defaults. Integer sums are the same with all settings:
# only layers in float, and the rounding after them, may differ.
INTEGER_CORRELATION = 0.999


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried, and its verdict.

    `milliseconds` is the time of a batch, and `throughput` the images per second of all processes. `ratio` is the speed
    over that of the best configuration before it, paired by rounds. Numbers are None if it was not timed.
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
    """The result of tuning: all trials in order, and the best configuration, which is stored.

    `seconds` is the duration. `untried` names the settings for which there was no time. `load` is the number of threads
    that other programs used before.
    """

    artifact: Artifact
    trials: tuple[Trial, ...]
    best: Tuned
    seconds: float
    untried: tuple[str, ...]
    load: float = 0.0

    def to_dict(self) -> JsonRecord:
        """The result as JSON data, with the conditions of the measurement."""
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
    """Search for about `seconds`, and store the best settings in the artifact's folder for this kind of processor.

    `goal` is "latency" or "throughput". Raises InputError for another goal, ArtifactError if the folder cannot be
    written, BusyError if another run tunes the artifact, and the SandglassError of an artifact that does not run with
    default settings.
    """
    if goal not in GOALS:
        raise InputError(f"unknown goal {goal!r}", f"known: {', '.join(GOALS)}")
    backend = load_backend(artifact.backend)
    backend.available()
    if not os.access(artifact.folder, os.W_OK):
        raise ArtifactError(f"cannot write {artifact.folder / TUNING}", "tune a copy in a writable folder")
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
    """The settings to tune, in order, with their values except the defaults.

    They are threads, the settings of the runtime, and for throughput also batch and processes.
    """
    threads = host.threads()
    powers = [2**i for i in range(threads.bit_length()) if 2**i < threads]
    ordered: list[Knob] = [("threads", tuple(reversed(powers)))]
    if goal == "throughput" and "streams" in offered:
        ordered.insert(0, ("streams", offered["streams"][1:]))  # first, because streams share all threads
    ordered += [(name, values[1:]) for name, values in offered.items() if name != "streams"]
    if goal == "throughput":
        ordered += [("batch", BATCHES[1:]), ("processes", tuple(p for p in (*powers[1:], threads) if p > 1))]
    return ordered


def changed(best: Configuration, name: str, value: SettingValue) -> Configuration:
    """A configuration with one setting changed.

    Streams need a batch that is large enough for all of them; processes share the threads.
    """
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
    """The reason why outputs differ too much from those of the defaults, or "" if they do not."""
    for name, reference in expected.items():
        result = actual[name]
        difference, agreement = relative_difference(reference, result), correlation(reference, result)
        if not np.isfinite(difference):
            return "its result is not finite"
        if precision == "fp32" and difference > FLOAT_TOLERANCE:
            return (
                f"its result differs by {difference:.1e} of the largest value (at most {FLOAT_TOLERANCE:g} is allowed)"
            )
        if precision != "fp32" and agreement < INTEGER_CORRELATION:
            return f"its result has a correlation of {agreement:.4f} (at least {INTEGER_CORRELATION:g} is needed)"
    return ""


def is_better(ratios: np.ndarray) -> bool:
    """Whether ratios of speeds, (rounds,), show a gain above the noise.

    The median must reach MARGIN, and three quarters of the rounds must be faster.
    """
    return float(np.median(ratios)) >= MARGIN and float(np.percentile(ratios, 25)) > 1


def summary(tuning: Tuning) -> list[str]:
    """The result in a few lines of text."""
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
                f": the best other configuration has {best.measured['gain']:.2f} {unit} "
                f"({low:.2f} .. {high:.2f} over rounds)"
            )
    if best.advice:
        lines.append(
            f"advice for the program that calls the runtime: {best.advice['processes']} processes with "
            f"{best.advice['threads']} threads each have together {best.advice['gain']:.2f} {unit} of the defaults"
        )
    if tuning.load > BUSY * host.threads():
        lines.append(
            f"unreliable: before tuning, other programs used {tuning.load:.1f} of {host.threads()} threads; "
            "tune again on a quiet machine"
        )
    if tuning.untried:
        lines.append(f"no time was left for {', '.join(tuning.untried)}: use a larger --seconds")
    lines.append(f"stored in {tuning.artifact.folder / TUNING} for {processor_kind()}")
    return lines


class _Search:
    """The state of the descent: the best lane so far, which stays open, and all trials."""

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
        """Time the values of one setting together with the best lane so far, and choose the fastest if it is better."""
        if time.perf_counter() > self.deadline:
            self.untried.append(name)
            return
        lanes: dict[SettingValue, Lane] = {}
        winner = None
        try:
            for value in values:
                configuration = changed(self.base.configuration, name, value)
                lane = (
                    self._open(f"{name} {value}", configuration) if configuration != self.base.configuration else None
                )
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
                verdict = "chosen" if lane is winner else "faster, but not the fastest" if better else "not faster"
                self.trials.append(self._trial(f"{name} {value}", lane, verdict, gain))
                self.say(f"tune: {name} {value}: {gain:.2f} times the speed of the best so far, {verdict}")
        finally:
            for lane in lanes.values():
                if lane is not winner or name == "processes":
                    lane.close()
        if winner is not None and name == "processes":
            self.crowd = winner.configuration
        elif winner is not None:
            self.base.close()
            self.base = winner

    def final(self, seconds: float) -> Tuned:
        """Time the best configuration, and several processes if they were better, together with the defaults.

        Only a gain in this comparison counts.
        """
        self.say("tune: timing the best configuration together with the defaults")
        results = (self.base.configuration, self.crowd)
        candidates = [entry for entry in results if entry is not None and entry != self.default]
        lanes: list[Lane] = []
        try:
            for configuration in (self.default, *candidates):
                lanes.append(Lane(self.artifact, configuration))
            rounds = max(ROUNDS, int(seconds / (BURST_SECONDS * len(lanes))))
            race(lanes[0], lanes[1:], self.goal, time.perf_counter() + seconds, rounds)
        finally:
            for lane in lanes:
                lane.close()
        best, advice = Tuned(self.goal, self.default.threads), {}
        for lane in (lane for lane in lanes[1:] if lane.error is None):
            ratios, configuration = lane.ratios(lanes[0], self.goal), lane.configuration
            gain = round(float(np.median(ratios)), 3)
            if configuration.processes > 1:
                if gain >= MARGIN * best.gain:
                    advice = {"processes": configuration.processes, "threads": configuration.threads, "gain": gain}
                continue
            interval = [round(float(value), 3) for value in np.percentile(ratios, (5, 95))]
            measured = {"gain": gain, "gain_90": interval, "defaults": lanes[0].middle(), "best": lane.middle()}
            best = structs.replace(best, measured=measured)
            if is_better(ratios):
                best = structs.replace(
                    best,
                    threads=configuration.threads,
                    batch=configuration.batch,
                    settings=dict(configuration.settings),
                    gain=gain,
                )
        return structs.replace(best, advice=advice)

    def _open(self, label: str, configuration: Configuration) -> Lane | None:
        """A lane that computes the same as the defaults; otherwise None, after a trial with the reason."""
        lane = None
        try:
            lane = Lane(self.artifact, configuration)
            problem = disagreement(self.expected, lane.workers[0].outputs(SAMPLES), self.artifact.precision)
            reason = f"refused: {problem}" if problem else ""
        except SandglassError as error:
            reason = f"failed: {error.message}"
        if not reason:
            return lane
        if lane is not None:
            lane.close()
        self._refuse(label, configuration, reason)
        return None

    def _drop(self, label: str, lane: Lane) -> None:
        """Close a lane that failed while it was timed, and record its trial."""
        lane.close()
        self._refuse(label, lane.configuration, f"failed: {lane.error.message if lane.error else ''}")

    def _refuse(self, label: str, configuration: Configuration, reason: str) -> None:
        self.say(f"tune: {label}: {reason}")
        self.trials.append(
            Trial(
                label,
                configuration.threads,
                configuration.batch,
                configuration.processes,
                configuration.settings,
                reason,
            )
        )

    def _trial(self, label: str, lane: Lane, verdict: str, ratio: float | None) -> Trial:
        configuration, numbers = lane.configuration, lane.middle()
        return Trial(
            label,
            configuration.threads,
            configuration.batch,
            configuration.processes,
            configuration.settings,
            verdict,
            **numbers,
            ratio=None if ratio is None else round(ratio, 3),
        )
