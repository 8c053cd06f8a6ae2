"""The quantization plan: what becomes int8, at which ranges, what stays in float and why, and edits before rounding.

A plan knows the graph, not a runtime. Scales of weights are not in it: they follow from the weights, one for each
output channel. A plan's file is JSON, made to be edited; the arrays of its edits lie beside it (see `edits_file`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from msgspec.structs import asdict

from sandglass.core.errors import PlanError
from sandglass.core.files import atomic_file
from sandglass.core.json_values import JsonObject
from sandglass.graph.layers import Layer
from sandglass.quantization.edits import Edit, Rounded, SetWeights, ShiftChannels, SplitChannels, add_edit
from sandglass.quantization.edits_file import (
    arrays_hash,
    arrays_of,
    edits_of,
    edits_of_format_1,
    load_arrays,
    save_arrays,
)
from sandglass.quantization.plan_record import FORMAT, FirstPlanRecord, PlanRecord, read_plan_record


@dataclass(frozen=True)
class TensorRange:
    """Smallest and largest value seen, and the magnitude at which the tensor is clipped."""

    minimum: float
    maximum: float
    threshold: float

    @property
    def largest(self) -> float:
        """The largest magnitude seen."""
        return max(-self.minimum, self.maximum)


@dataclass(frozen=True)
class PlannedLayer(Layer):
    """The decision on a layer: how many bits its weights have, or why it stays in float."""

    weight_bits: int = 8
    keep_float: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """Ranges by tensor and decisions by layer, for the graph with the given fingerprint.

    `repairs` names the repairs that the plan was made with. `edits` are the changes of the float network that they
    chose, in normal form (see `quantization.edits`).
    """

    graph: str
    method: str
    tensors: dict[str, TensorRange]
    layers: dict[str, PlannedLayer]
    calibration: JsonObject = dataclasses.field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def split(self) -> tuple[str, ...]:
        """Names of the groups of tensors whose channels are there twice."""
        return next((edit.tensors for edit in self.edits if isinstance(edit, SplitChannels)), ())

    @property
    def offsets(self) -> Mapping[str, np.ndarray]:
        """Offsets of tensors, (channels,) or (1,), that are taken off before rounding."""
        return next((edit.offsets for edit in self.edits if isinstance(edit, ShiftChannels)), {})

    @property
    def rounded(self) -> Mapping[str, Rounded]:
        """Weights by layer that were rounded by more than rounding to nearest."""
        return next((edit.rounded for edit in self.edits if isinstance(edit, SetWeights)), {})

    def with_edit(self, edit: Edit) -> Plan:
        """The plan with one more edit."""
        return replace(self, edits=add_edit(self.edits, edit))

    def with_weights(self, rounded: Mapping[str, Rounded]) -> Plan:
        """The plan with these weights for the layers in `rounded`, which may be none."""
        return self.with_edit(SetWeights(rounded)) if rounded else self

    def weight_scales(self, name: str, bits: int) -> np.ndarray | None:
        """Scales of a layer whose weights were rounded to at most `bits` bits; None where rounding finds them."""
        rounded = self.rounded.get(name)
        return rounded.scales if rounded is not None and rounded.levels < 2 ** (bits - 1) else None

    def to_json(self) -> str:
        """The plan as JSON text, one line a tensor and a layer."""
        head = {
            "format": FORMAT,
            "graph": self.graph,
            "method": self.method,
            "calibration": self.calibration,
            "repairs": list(self.repairs),
            "edits": [{"edit": edit.KIND, "names": list(edit.names)} for edit in self.edits],
            "arrays": arrays_hash(arrays_of(self.edits)),
        }
        parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        for key, entries in (("tensors", self.tensors), ("layers", self.layers)):
            lines = [f"    {json.dumps(name)}: {json.dumps(_fields(entry))}" for name, entry in entries.items()]
            parts.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n  }")
        return "{\n" + ",\n".join(parts) + "\n}\n"

    def save(self, path: Path) -> None:
        """Write the arrays, where there are any, and then the JSON text beside them, each atomically."""
        if arrays := arrays_of(self.edits):
            save_arrays(arrays, path.with_suffix(".safetensors"))
        with atomic_file(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @property
    def sha256(self) -> str:
        """Hash of the JSON text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @staticmethod
    def load(path: Path) -> Plan:
        """Read a plan and its arrays. Raises PlanError for a file that is not a plan, or with a value that is wrong."""
        record = read_plan_record(path)
        return Plan(
            graph=record.graph,
            method=record.method,
            tensors={name: TensorRange(**asdict(entry)) for name, entry in record.tensors.items()},
            layers={name: PlannedLayer(name, **asdict(entry)) for name, entry in record.layers.items()},
            calibration=record.calibration,
            repairs=record.repairs,
            edits=_edits(path, record),
        )

    def check(self, graph: str, layers: Mapping[str, Layer], tensors: Collection[str]) -> None:
        """Raise PlanError unless this plan was made for the graph with this fingerprint, these layers and tensors.

        A tensor that is not a layer's input may lack a range: then it is not rounded.
        """
        if unknown := sorted(set(self.layers) ^ set(layers)):
            raise PlanError(f"the plan and the graph differ in the layer {unknown[0]}", "use the plan of this model")
        if self.graph != graph:
            raise PlanError(
                f"the plan is for the graph {self.graph[:12]}, not {graph[:12]}", "use the plan of this model"
            )
        if unknown := [name for name in self.tensors if name not in tensors]:
            raise PlanError(
                f"the plan has a range for {unknown[0]}, which is not an activation of the graph", "remove it"
            )
        for layer in self.layers.values():
            for field in ("operator", "input", "output", "weight"):
                planned, expected = getattr(layer, field), getattr(layers[layer.name], field)
                if planned != expected:
                    raise PlanError(
                        f"{layer.name} has {field} {planned!r} in the plan and {expected!r} in the graph",
                        "edit the plan",
                    )
            if not layer.keep_float and layer.input not in self.tensors:
                raise PlanError(f"{layer.name} has no range for its input {layer.input}", "edit the plan")


def planned_layers(layers: Mapping[str, Layer]) -> dict[str, PlannedLayer]:
    """A plan's layers by name, each with the usual number of bits."""
    return {name: PlannedLayer(**dataclasses.asdict(layer)) for name, layer in layers.items()}


def _edits(path: Path, record: PlanRecord | FirstPlanRecord) -> tuple[Edit, ...]:
    """The edits of a plan in the file `path`, with the arrays beside it, which have to have the hash in the plan."""
    arrays = load_arrays(path.with_suffix(".safetensors")) if record.arrays else {}
    if arrays_hash(arrays) != record.arrays:
        raise PlanError(f"{path} belongs to other arrays than those beside it", "keep both files together")
    try:
        if isinstance(record, FirstPlanRecord):
            return edits_of_format_1(record.split, arrays)
        return edits_of([(entry.edit, entry.names) for entry in record.edits], arrays)
    except KeyError as error:
        raise PlanError(f"{path} has no array for {error.args[0]!r}", "keep both files together") from error


def _fields(entry: TensorRange | PlannedLayer) -> JsonObject:
    return {key: value for key, value in dataclasses.asdict(entry).items() if key != "name"}
