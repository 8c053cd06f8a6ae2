"""Settings that suit an artifact on one kind of processor: `tuning.json`, beside the manifest and not part of it.

The file may be deleted at any time: the artifact then runs with the defaults of its runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sandglass.core import host
from sandglass.core.errors import ArtifactError
from sandglass.core.files import read_json, write_json

TUNING = "tuning.json"
FORMAT = 1
MOST = 4096  # threads, or images in a batch: more than any machine has a use for, and few enough to be tried
GOALS = ("latency", "throughput")
MEND = "delete that file, or tune the artifact again after that"


@dataclass(frozen=True)
class Tuned:
    """The best found for `goal` on one kind of processor.

    `threads` and the runtime's own `settings` are used when the artifact is opened. `batch` is advice to who calls, and
    so is `advice`: several processes, and the threads of each, where those give more images a second than one. `gain`
    is how many times faster than the defaults it was (latency) or how many times more images a second it gave
    (throughput); `measured` holds the numbers behind it.
    """

    goal: str
    threads: int
    batch: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    gain: float = 1.0
    advice: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


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
    data = read_json(path, ArtifactError)
    try:
        if data["format"] != FORMAT:
            raise ArtifactError(f"{path} has format {data['format']!r}, expected {FORMAT}", MEND)
        if data["artifact"] != artifact:
            raise ArtifactError(f"{path} was made for another artifact: {str(data['artifact'])[:12]}", MEND)
        return {kind: _tuned(path, Tuned(**entry)) for kind, entry in data["processors"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} holds no tuned settings: {error}", MEND) from error


def write_tuned(folder: Path, artifact: str, found: Tuned) -> None:
    """Store `found` for this kind of processor in place of what was there; other kinds keep theirs."""
    entries = {**read_tuned(folder, artifact), processor_kind(): found}
    processors = {kind: asdict(entry) for kind, entry in sorted(entries.items())}
    write_json(folder / TUNING, {"format": FORMAT, "artifact": artifact, "processors": processors})


def check_settings(
    folder: Path, backend: str, offered: Mapping[str, tuple[Any, ...]], settings: Mapping[str, Any]
) -> None:
    """Raise ArtifactError, naming it, for a stored setting or value that the backend does not offer."""
    for name, value in settings.items():
        if value not in offered.get(name, ()):
            raise ArtifactError(f"{folder / TUNING} sets {name} to {value!r}, which {backend} does not offer", MEND)


def _tuned(path: Path, entry: Tuned) -> Tuned:
    counts = (entry.threads, entry.batch)
    if entry.goal not in GOALS or not isinstance(entry.settings, dict):
        raise ArtifactError(f"{path} has the goal {entry.goal!r} and the settings {entry.settings!r}", MEND)
    if not all(type(count) is int and 0 < count <= MOST for count in counts):
        raise ArtifactError(f"{path} has threads and batch {counts}, expected whole numbers from 1 to {MOST}", MEND)
    return entry
