"""What a backend records of a build: typed in Python, JSON in the artifact's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeVar

from sandglass.core.errors import ArtifactError
from sandglass.core.records import Record, to_record

ArithmeticName = Literal["int8", "float"]
INT8: Final = "int8"
FLOAT: Final = "float"


class LayerDecision(Record, frozen=True, omit_defaults=True):
    """How one layer of the graph is built.

    `weight_bits` are those of an int8 layer's weights. `kernel` names the kernel where the runtime has several for the
    layer, and `reason` says why a layer stays in float.
    """

    arithmetic: ArithmeticName
    weight_bits: int | None = None
    kernel: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """The reason, or the kernel with its bits where they are fewer than 8, or ""."""
        bits = f"{self.weight_bits}-bit weights, " if self.kernel and (self.weight_bits or 8) < 8 else ""
        return self.reason or bits + self.kernel


class BuildNotes(Record, frozen=True, omit_defaults=True, kw_only=True):
    """What every backend may record; a backend that needs more to open its files derives its own `Notes`.

    `layers` are the decisions by the graph's layer names, in artifacts built from a plan. `float_layers` name the
    layers of an fp16 artifact that stay in float32, because half precision cannot hold their values.
    """

    layers: dict[str, LayerDecision] | None = None
    float_layers: tuple[str, ...] | None = None


N = TypeVar("N", bound=BuildNotes)


def read_notes(kind: type[N], notes: Mapping[str, object], where: str = "backend_notes") -> N:
    """Notes of a manifest as the record `kind`.

    Decisions that earlier versions wrote as text are read too. Raises ArtifactError naming the field that is wrong.
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
    """Why the layer `name` runs as it does, in a report: by its decision, or because the runtime chose otherwise."""
    decision = (notes.layers or {}).get(name)
    if decision is None:
        return ""
    if decision.arithmetic == INT8 and arithmetic == FLOAT:
        return "the plan says int8, the runtime has no such kernel here"
    return decision.text
