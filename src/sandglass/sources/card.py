"""Model cards: TOML files that say what a model is. Zoo models and a user's own ONNX files share one format.

The fields are described in docs/model-card.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from sandglass.core import discover
from sandglass.core.errors import CardError, shown
from sandglass.core.files import is_plain_name
from sandglass.core.json_values import JsonObject, JsonValue
from sandglass.core.records import Record, to_data, to_record
from sandglass.core.toml_files import excess

ZOO = Path(__file__).parent / "cards"
MOST_PIXELS = 1 << 26  # of an input: as float32 it takes 0.8 GB
HELP = "see docs/model-card.md"

Side = Annotated[int, Meta(ge=1)]
Number = int | float
Triple = tuple[Number, Number, Number]
Settings = dict[str, Any]  # of a task, which says what types they have


class Input(Record, frozen=True):
    """What the network eats: RGB or BGR pixels of 0..255, `(pixel - mean) / std`, resized to `size`."""

    size: Annotated[tuple[Side, Side], Meta(description="height, width in pixels")]
    mean: Annotated[Triple, Meta(description="subtracted from each channel, of 0..255")]
    std: Annotated[Triple, Meta(description="each channel is divided by it, of 0..255")]
    channels: Annotated[Literal["rgb", "bgr"], Meta(description="their order")] = "rgb"

    def __post_init__(self) -> None:
        """Raises ValueError for too many pixels, and for numbers that are not finite or not positive."""
        if self.size[0] * self.size[1] > MOST_PIXELS:
            raise ValueError(f"size is {list(self.size)}, expected at most {MOST_PIXELS} pixels")
        if not all(map(isfinite, self.mean)):
            raise ValueError(f"mean is {list(self.mean)}, expected 3 numbers")
        if not all(isfinite(value) and value > 0 for value in self.std):
            raise ValueError(f"std is {list(self.std)}, expected 3 positive numbers")


class Checkpoint(Record, frozen=True):
    """Where trained weights are published: file name, addresses, and SHA-256 (or its first hex digits)."""

    file: Annotated[str, Meta(description="a plain file name")]
    urls: Annotated[tuple[str, ...], Meta(description="addresses of that file")] = ()
    sha256: Annotated[str, Meta(description="its hash, or how it begins")] = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a file name with a path."""
        if not is_plain_name(self.file):
            raise ValueError(f"file is {shown(self.file)}, expected a plain file name, without a path")


class Card(Record, frozen=True, omit_defaults=True):
    """A model card. Exactly one of `model` (an architecture of Sandglass) and `graph` (an ONNX file) is set."""

    name: Annotated[str, Meta(description="how tables call the model")]
    task: Annotated[str, Meta(description="what inputs and outputs mean, for example topdown-pose")]
    input: Input
    model: Annotated[str | None, Meta(description="an architecture of Sandglass, in place of `graph`")] = None
    arguments: Annotated[dict[str, JsonValue], Meta(description="of the architecture")] = field(default_factory=dict)
    graph: Annotated[Path | None, Meta(description="an ONNX file, relative to the card")] = None
    decode: Annotated[Settings, Meta(description="settings of the task")] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    published: Annotated[dict[str, JsonValue], Meta(description="what the publisher reports")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        """Raises ValueError for a name with slashes, an unknown task, model or setting, and two sources or none."""
        if not self.name.strip(". ") or any(letter in "/\\" or not letter.isprintable() for letter in self.name):
            raise ValueError(f"name is {shown(self.name)}, expected letters without slashes")
        if (self.model is None) == (self.graph is None):
            raise ValueError("a card has either `model` (an architecture) or `graph` (an ONNX file)")
        _check_known("tasks", self.task)
        if self.model is not None:
            _check_known("models", self.model)
        _check_settings(self.decode, discover.load("tasks", self.task).DECODE)

    def to_dict(self) -> JsonObject:
        """The card as JSON-able data, its graph as the name of the file; `from_dict` reads it back."""
        return to_data(self)

    @staticmethod
    def from_dict(data: object, where: str, folder: Path | None = None) -> Card:
        """Convert the fields of a card; `where` names the file in errors, and paths are relative to `folder`.

        Raises CardError naming the field, its value and what is expected.
        """
        if problem := excess(data):
            raise CardError(f"{where}: the card {problem}", HELP)
        return to_record(data, Card, where, CardError, HELP, folder)


def zoo() -> dict[str, Path]:
    """Cards shipped with Sandglass: name to path."""
    return {path.stem: path for path in sorted(ZOO.glob("*.toml"))}


def _check_known(seam: str, name: str) -> None:
    if not discover.has(seam, name):
        raise ValueError(f"unknown {seam[:-1]} {shown(name)}, known: {', '.join(discover.names(seam))}")


def _check_settings(decode: Settings, known: Mapping[str, type | tuple[JsonValue, ...]]) -> None:
    """Raise ValueError unless a task has these settings: `known` has the type of each, or the values to choose from."""
    for key, value in decode.items():
        kind = known.get(key)
        if kind is None:
            raise ValueError(f"unknown field {shown(key)} in [decode], expected {', '.join(sorted(known))}")
        if isinstance(kind, tuple) and value not in kind:
            raise ValueError(f"decode.{key} is {shown(value)}, expected one of {', '.join(map(str, kind))}")
        if isinstance(kind, type) and not isinstance(value, (int, float) if kind is float else kind):
            name = "a number" if kind is float else kind.__name__
            raise ValueError(f"decode.{key} is {shown(value)}, expected {name}")
