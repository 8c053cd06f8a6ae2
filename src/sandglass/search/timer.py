"""The clock of a search: everything that is measured in milliseconds on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sandglass.artifacts.artifact import Artifact
from sandglass.core.progress import Say
from sandglass.measure.benchmarking import Speed, undisturbed
from sandglass.measure.inspection import inspect

# Seconds of inference for each artifact in a comparison. It bounds the noise of medians: bursts of all artifacts take
# turns, and slow drift of the machine cancels out. A search times 8 artifacts.
TIMED_SECONDS = 3.0

LayerTimes = dict[str, float]  # milliseconds by layer, of the layers with weights that the runtime times


class Timer(Protocol):
    """What times artifacts. A search takes its times from nowhere else."""

    @property
    def seconds(self) -> float:
        """Seconds of inference for each artifact in `whole_runs`."""
        ...

    def layers(self, artifact: Artifact) -> LayerTimes:
        """Times of an artifact's layers on one thread."""
        ...

    def layers_beside(self, artifact: Artifact, base: Artifact) -> tuple[LayerTimes, LayerTimes]:
        """Times of the layers of a float artifact and of another one of the same graph, taken in turns."""
        ...

    def whole_runs(self, artifacts: Sequence[Artifact], say: Say) -> list[Speed]:
        """Speeds of whole runs on all threads, taken in turns; the first artifact is the float one."""
        ...


@dataclass(frozen=True)
class Clock:
    """The timer that reads this machine's clock."""

    seconds: float = TIMED_SECONDS

    def layers(self, artifact: Artifact) -> LayerTimes:
        """One thread is less disturbed than all, and has the same proportions between layers."""
        return inspect(artifact, threads=1).layer_times()

    def layers_beside(self, artifact: Artifact, base: Artifact) -> tuple[LayerTimes, LayerTimes]:
        inspection = inspect(artifact, threads=1, against=base)
        return inspection.float_times(), inspection.layer_times()

    def whole_runs(self, artifacts: Sequence[Artifact], say: Say) -> list[Speed]:
        return undisturbed(artifacts, seconds=self.seconds, say=say)


CLOCK = Clock()
