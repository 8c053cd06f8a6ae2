"""`tuning.json`: the fastest settings that `sandglass tune` found for an artifact, for each kind of processor.

The file is next to the manifest, which does not list it. It may be deleted at any time. Without it, the artifact runs
with the defaults of its runtime.
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
MOST = 4096  # threads, or images in a batch: more than any machine can use
GOALS = ("latency", "throughput")
FIX = "delete this file, then run `sandglass tune` again if the artifact needs tuned settings"

Count = Annotated[int, Meta(ge=1, le=MOST)]
Setting = bool | int | str


class Tuned(Record, frozen=True):
    """The best settings for `goal` ("latency" or "throughput") on one kind of processor.

    `Artifact.open` applies `threads` and the runtime's own `settings`. `batch` (images) and `advice` are for the
    caller; `advice` gives a number of processes, and threads of each, if several processes give more images per second
    than one. `gain` is the speed relative to the defaults: by latency or by images per second. `measured` holds the
    measurements behind it.
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
    """The content of `tuning.json`: `artifact` is the hash of the manifest; `processors` has the settings by kind."""

    format: int
    artifact: str
    processors: dict[str, Tuned]


def processor_kind() -> str:
    """The key of the stored settings: the processor's name and the number of threads that this process may use."""
    return f"{host.processor()}, {host.threads()} threads"


def read_tuned(folder: Path, artifact: str) -> dict[str, Tuned]:
    """The stored settings of the artifact with the hash `artifact`, by kind of processor; empty without a file.

    Raises ArtifactError for a file that does not parse, or that belongs to another artifact.
    """
    path = folder / TUNING
    if not path.exists():
        return {}
    tuning = read_json_record(path, Tuning, ArtifactError, FIX, FORMAT)
    if tuning.artifact != artifact:
        raise ArtifactError(f"{path} belongs to another artifact, with the hash {shown(tuning.artifact[:12])}", FIX)
    return tuning.processors


def write_tuned(folder: Path, artifact: str, best: Tuned) -> None:
    """Store `best` for this kind of processor; entries of other kinds do not change."""
    entries = {**read_tuned(folder, artifact), processor_kind(): best}
    write_json(folder / TUNING, to_data(Tuning(FORMAT, artifact, dict(sorted(entries.items())))))


def check_settings(
    folder: Path, backend: str, offered: Mapping[str, tuple[object, ...]], settings: Mapping[str, object]
) -> None:
    """Raise ArtifactError for a stored setting, or a value of it, that the backend does not offer.

    `offered` has the possible values of each setting; `settings` are the stored ones.
    """
    for name, value in settings.items():
        if value not in offered.get(name, ()):
            raise ArtifactError(f"{folder / TUNING} sets {name} to {value!r}, which {backend} does not offer", FIX)
