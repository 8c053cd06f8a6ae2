"""The clock of a search: all measurements of milliseconds on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sandglass.artifacts.artifact import Artifact
from sandglass.core.progress import Say
from sandglass.measure.benchmarking import Speed, undisturbed
from sandglass.measure.inspection import inspect

# Seconds of inference for each artifact in a comparison. It bounds the noise of the medians. The artifacts run in short
# turns, so that slow changes of the machine cancel out. A search times 8 artifacts.
TIMED_SECONDS = 3.0

LayerTimes = dict[str, float]  # milliseconds by layer, for the layers with weights whose time the runtime reports


class Timer(Protocol):
    """The source of all times in a search."""

    @property
    def seconds(self) -> float:
        """Seconds of inference for each artifact in `whole_runs`."""
        ...

    def layers(self, artifact: Artifact) -> LayerTimes:
        """Times of the layers of an artifact on one thread."""
        ...

    def paired_layers(self, artifact: Artifact, base: Artifact) -> tuple[LayerTimes, LayerTimes]:
        """Times of the layers of the float artifact `base` and of `artifact`, of the same graph, measured in turns."""
        ...

    def whole_runs(self, artifacts: Sequence[Artifact], say: Say) -> list[Speed]:
        """Speeds of whole runs on all threads, measured in turns; the first artifact is the float one."""
        ...


@dataclass(frozen=True)
class Clock:
    """The timer that reads this machine's clock."""

    seconds: float = TIMED_SECONDS

    def layers(self, artifact: Artifact) -> LayerTimes:
        """See `Timer`. One thread is disturbed less than several, and the proportions between layers are the same."""
        return inspect(artifact, threads=1).layer_times()

    def paired_layers(self, artifact: Artifact, base: Artifact) -> tuple[LayerTimes, LayerTimes]:
        inspection = inspect(artifact, threads=1, against=base)
        return inspection.float_times(), inspection.layer_times()

    def whole_runs(self, artifacts: Sequence[Artifact], say: Say) -> list[Speed]:
        return undisturbed(artifacts, seconds=self.seconds, say=say)


CLOCK = Clock()
