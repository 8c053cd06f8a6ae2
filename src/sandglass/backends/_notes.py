"""The notes of a build: typed records in Python, JSON in the artifact's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeVar

from sandglass.core.errors import ArtifactError
from sandglass.core.records import Record, to_record

ArithmeticName = Literal["int8", "float"]
INT8: Final = "int8"
FLOAT: Final = "float"


class LayerDecision(Record, frozen=True, omit_defaults=True):
    """The decision for one layer of the graph.

    `weight_bits` is the number of bits of an int8 layer's weights. `kernel` names the kernel if the runtime has several
    for the layer. `reason` says why a layer stays in float.
    """

    arithmetic: ArithmeticName
    weight_bits: int | None = None
    kernel: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """The reason, or the kernel with the weight bits if they are fewer than 8, or ""."""
        bits = f"{self.weight_bits}-bit weights, " if self.kernel and (self.weight_bits or 8) < 8 else ""
        return self.reason or bits + self.kernel


class BuildNotes(Record, frozen=True, omit_defaults=True, kw_only=True):
    """The notes of every backend. A backend that needs more to open its files derives its own `Notes`.

    `layers` has the decisions by the graph's layer names, for artifacts built from a plan. `float_layers` names the
    layers of an fp16 artifact that stay in float32, because their values are too large for float16.
    """

    layers: dict[str, LayerDecision] | None = None
    float_layers: tuple[str, ...] | None = None


N = TypeVar("N", bound=BuildNotes)


def read_notes(kind: type[N], notes: Mapping[str, object], where: str = "backend_notes") -> N:
    """Convert the notes of a manifest to the record `kind`.

    Decisions in the text form of earlier versions are supported. Raises ArtifactError with the name of a wrong field.
    """
    layers = notes.get("layers")
    if isinstance(layers, dict):
        parsed = {name: _from_text(entry) if isinstance(entry, str) else entry for name, entry in layers.items()}
        notes = {**notes, "layers": parsed}
    return to_record(notes, kind, where, ArtifactError, "deploy the model again with this version")


def _from_text(text: str) -> dict[str, object]:
    """The fields of a decision such as "float: REASON", "int8" or "int8, 6-bit weights, Winograd"."""
    if text.startswith(FLOAT):
        return {"arithmetic": FLOAT, "reason": text.partition(": ")[2]}
    _, *details = text.split(", ")
    bits = 6 if "6-bit weights" in details else None
    return {"arithmetic": INT8, "weight_bits": bits, "kernel": details[-1] if details else ""}


def layer_note(notes: BuildNotes, name: str, arithmetic: ArithmeticName) -> str:
    """The note on the layer `name` in a report: its decision, or that the runtime chose another arithmetic."""
    decision = (notes.layers or {}).get(name)
    if decision is None:
        return ""
    if decision.arithmetic == INT8 and arithmetic == FLOAT:
        return "int8 in the plan, but the runtime has no int8 kernel for it here"
    return decision.text
