"""Model cards: TOML files that describe a model. Zoo models and a user's own ONNX files share one format.

docs/model-card.md describes the fields.
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
MOST_PIXELS = 1 << 26  # pixels of an input, which takes 0.8 GB in float32
HELP = "see docs/model-card.md"

Side = Annotated[int, Meta(ge=1)]
Number = int | float
Triple = tuple[Number, Number, Number]
Settings = dict[str, Any]  # settings of a task, which defines their types


class Input(Record, frozen=True):
    """The input of the network: RGB or BGR pixels of 0 to 255, resized to `size`, then `(pixel - mean) / std`."""

    size: Annotated[tuple[Side, Side], Meta(description="height and width in pixels")]
    mean: Annotated[Triple, Meta(description="mean of each channel, for pixels of 0 to 255; it is subtracted")]
    std: Annotated[Triple, Meta(description="standard deviation of each channel, for pixels of 0 to 255; a divisor")]
    channels: Annotated[Literal["rgb", "bgr"], Meta(description="order of the channels")] = "rgb"

    def __post_init__(self) -> None:
        """Raises ValueError for too many pixels, and for numbers that are not finite or not positive."""
        if self.size[0] * self.size[1] > MOST_PIXELS:
            raise ValueError(f"size is {list(self.size)}, expected at most {MOST_PIXELS} pixels")
        if not all(map(isfinite, self.mean)):
            raise ValueError(f"mean is {list(self.mean)}, expected 3 numbers")
        if not all(isfinite(value) and value > 0 for value in self.std):
            raise ValueError(f"std is {list(self.std)}, expected 3 positive numbers")


class Checkpoint(Record, frozen=True):
    """The published weights: file name, addresses, and SHA-256 or its first hex digits."""

    file: Annotated[str, Meta(description="a plain file name")]
    urls: Annotated[tuple[str, ...], Meta(description="addresses of the file")] = ()
    sha256: Annotated[str, Meta(description="SHA-256 of the file, or its first hex digits")] = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a file name with a path."""
        if not is_plain_name(self.file):
            raise ValueError(f"file is {shown(self.file)}, expected a plain file name, without a path")


class Card(Record, frozen=True, omit_defaults=True):
    """A model card. Exactly one of `model` (an architecture of Sandglass) and `graph` (an ONNX file) is set."""

    name: Annotated[str, Meta(description="name of the model in tables")]
    task: Annotated[str, Meta(description="task of the model, for example topdown-pose")]
    input: Input
    model: Annotated[str | None, Meta(description="an architecture of Sandglass, in place of `graph`")] = None
    arguments: Annotated[dict[str, JsonValue], Meta(description="arguments of the architecture")] = field(
        default_factory=dict
    )
    graph: Annotated[Path | None, Meta(description="an ONNX file, relative to the card")] = None
    decode: Annotated[Settings, Meta(description="settings of the task")] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    published: Annotated[dict[str, JsonValue], Meta(description="metrics that the publisher reports")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        """Raises ValueError for a name with slashes, for an unknown task, model or setting, and unless there is
        exactly one of `model` and `graph`."""
        if not self.name.strip(". ") or any(letter in "/\\" or not letter.isprintable() for letter in self.name):
            raise ValueError(f"name is {shown(self.name)}, expected letters without slashes")
        if (self.model is None) == (self.graph is None):
            raise ValueError("expected exactly one of `model` (an architecture) and `graph` (an ONNX file)")
        _check_known("tasks", self.task)
        if self.model is not None:
            _check_known("models", self.model)
        _check_settings(self.decode, discover.load("tasks", self.task).DECODE)

    def to_dict(self) -> JsonObject:
        """The card as JSON data, with the file name of its graph. `from_dict` reads it back."""
        return to_data(self)

    @staticmethod
    def from_dict(data: object, where: str, folder: Path | None = None) -> Card:
        """Convert the fields of a card. `where` names the file in errors, and paths are relative to `folder`.

        Raises CardError with the field, its value and the expected value.
        """
        if problem := excess(data):
            raise CardError(f"{where}: the card {problem}", HELP)
        return to_record(data, Card, where, CardError, HELP, folder)


def zoo() -> dict[str, Path]:
    """The paths of the cards that come with Sandglass, by name."""
    return {path.stem: path for path in sorted(ZOO.glob("*.toml"))}


def _check_known(seam: str, name: str) -> None:
    if not discover.has(seam, name):
        raise ValueError(f"unknown {seam[:-1]} {shown(name)}, known: {', '.join(discover.names(seam))}")


def _check_settings(decode: Settings, known: Mapping[str, type | tuple[JsonValue, ...]]) -> None:
    """Raise ValueError for an unknown or wrong setting. `known` has the type of each setting or its possible values."""
    for key, value in decode.items():
        kind = known.get(key)
        if kind is None:
            raise ValueError(f"unknown field {shown(key)} in [decode], expected {', '.join(sorted(known))}")
        if isinstance(kind, tuple) and value not in kind:
            raise ValueError(f"decode.{key} is {shown(value)}, expected one of {', '.join(map(str, kind))}")
        if isinstance(kind, type) and not isinstance(value, (int, float) if kind is float else kind):
            name = "a number" if kind is float else kind.__name__
            raise ValueError(f"decode.{key} is {shown(value)}, expected {name}")
