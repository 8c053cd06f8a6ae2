"""Settings that suit an artifact on one kind of processor: `tuning.json`, beside the manifest and not part of it.

The file may be deleted at any time: the artifact then runs with the defaults of its runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from sandglass.core import host
from sandglass.core.errors import ArtifactError, shown
from sandglass.core.files import write_json
from sandglass.core.records import Record, read_json_record, to_data

TUNING = "tuning.json"
FORMAT = 1
MOST = 4096  # threads, or images in a batch: more than any machine has a use for, and few enough to be tried
GOALS = ("latency", "throughput")
FIX = "delete that file, or tune the artifact again after that"

Count = Annotated[int, Meta(ge=1, le=MOST)]
Setting = bool | int | str


class Tuned(Record, frozen=True):
    """The best found for `goal` on one kind of processor.

    `threads` and the runtime's own `settings` are used when the artifact is opened. `batch` and `advice` are advice to
    the caller: several processes, and the threads of each, where those give more images a second than one. `gain` is
    how many times faster than the defaults it was (latency) or how many times more images a second it gave
    (throughput); `measured` holds the numbers behind it.
    """

    goal: str
    threads: Count
    batch: Count = 1
    settings: dict[str, Setting] = field(default_factory=dict)
    gain: float = 1.0
    advice: dict[str, int | float] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown goal."""
        if self.goal not in GOALS:
            raise ValueError(f"goal is {shown(self.goal)}, expected one of {', '.join(GOALS)}")


class Tuning(Record, frozen=True):
    """The content of `tuning.json`: `artifact` is the hash of the manifest that it belongs to."""

    format: int
    artifact: str
    processors: dict[str, Tuned]


def processor_kind() -> str:
    """What settings are kept by: the processor's name and how many threads this process may use."""
    return f"{host.processor()}, {host.threads()} threads"


def read_tuned(folder: Path, artifact: str) -> dict[str, Tuned]:
    """What is stored beside the artifact with the hash `artifact`, by kind of processor; empty where nothing is.

    Raises ArtifactError for a file that does not parse, or was made for another artifact.
    """
    path = folder / TUNING
    if not path.exists():
        return {}
    tuning = read_json_record(path, Tuning, ArtifactError, FIX, FORMAT)
    if tuning.artifact != artifact:
        raise ArtifactError(f"{path} was made for another artifact: {shown(tuning.artifact[:12])}", FIX)
    return tuning.processors


def write_tuned(folder: Path, artifact: str, best: Tuned) -> None:
    """Store `best` for this kind of processor in place of what was there; other kinds keep theirs."""
    entries = {**read_tuned(folder, artifact), processor_kind(): best}
    write_json(folder / TUNING, to_data(Tuning(FORMAT, artifact, dict(sorted(entries.items())))))


def check_settings(
    folder: Path, backend: str, offered: Mapping[str, tuple[object, ...]], settings: Mapping[str, object]
) -> None:
    """Raise ArtifactError, naming it, for a stored setting or value that the backend does not offer."""
    for name, value in settings.items():
        if value not in offered.get(name, ()):
            raise ArtifactError(f"{folder / TUNING} sets {name} to {value!r}, which {backend} does not offer", FIX)
