"""The quantization plan: the layers in int8, the ranges of activations, and the edits of the network before rounding.

For each layer in float the plan has a reason. A plan depends on the graph and not on a runtime. Scales of weights are
not in it: they follow from the weights, one for each output channel. The file of a plan is JSON that can be edited by
hand; the arrays of the edits are in a second file next to it (see `edits_file`).
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
from sandglass.quantization.edits import Edit, Rounded, SetWeights, ShiftChannels, add_edit
from sandglass.quantization.edits_file import (
    arrays_hash,
    arrays_of,
    edits_of,
    load_arrays,
    save_arrays,
)
from sandglass.quantization.plan_record import FORMAT, FirstPlanRecord, PlanRecord, read_plan_record


@dataclass(frozen=True)
class TensorRange:
    """The range of a tensor: its extremes on the calibration set, and the magnitude at which int8 clips it."""

    minimum: float
    maximum: float
    threshold: float

    @property
    def largest(self) -> float:
        """The largest magnitude on the calibration set."""
        return max(-self.minimum, self.maximum)


@dataclass(frozen=True)
class PlannedLayer(Layer):
    """The decision on a layer: the bits of its weights, or the reason why it stays in float."""

    weight_bits: int = 8
    keep_float: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """Ranges by tensor and decisions by layer.

    `graph` is the fingerprint of the graph that the plan is for. `method` chose the thresholds. `calibration` describes
    the calibration set. `repairs` names the repairs of the plan, and `edits` are their changes of the float network, in
    normal form (see `quantization.edits`).
    """

    graph: str
    method: str
    tensors: dict[str, TensorRange]
    layers: dict[str, PlannedLayer]
    calibration: JsonObject = dataclasses.field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def offsets(self) -> Mapping[str, np.ndarray]:
        """Offsets that are subtracted from tensors before rounding, (channels,) or (1,) float32 by tensor."""
        return next((edit.offsets for edit in self.edits if isinstance(edit, ShiftChannels)), {})

    @property
    def rounded(self) -> Mapping[str, Rounded]:
        """Integer weights and biases that repairs chose, by layer; the other layers round to nearest."""
        return next((edit.rounded for edit in self.edits if isinstance(edit, SetWeights)), {})

    def with_edit(self, edit: Edit) -> Plan:
        """The plan with one more edit."""
        return replace(self, edits=add_edit(self.edits, edit))

    def with_weights(self, rounded: Mapping[str, Rounded]) -> Plan:
        """The plan with these weights for the layers in `rounded`, which may be empty."""
        return self.with_edit(SetWeights(rounded)) if rounded else self

    def weight_scales(self, name: str, bits: int) -> np.ndarray | None:
        """Scales of a layer's weights, (channels,) float32, if the plan has integers of at most `bits` bits for it.

        Otherwise None: then the scales follow from the largest weights (see `qdq.weight_scales`).
        """
        rounded = self.rounded.get(name)
        return rounded.scales if rounded is not None and rounded.levels < 2 ** (bits - 1) else None

    def to_json(self) -> str:
        """The plan as JSON text, with one line for each tensor and each layer."""
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
        """Write the arrays, if there are any, and then the JSON text next to them, each file atomically."""
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
        """Read a plan and its arrays. Raises PlanError for a file that is not a plan or that has a wrong value."""
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
        """Raise PlanError unless this plan is for the graph with this fingerprint, these layers and these tensors.

        A tensor that no layer reads may lack a range: then it is not rounded.
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
    """The layers of a graph as a plan has them, by name: in int8, with weights of 8 bits."""
    return {name: PlannedLayer(**dataclasses.asdict(layer)) for name, layer in layers.items()}


def _edits(path: Path, record: PlanRecord | FirstPlanRecord) -> tuple[Edit, ...]:
    """The edits of the plan in the file `path`. Raises PlanError if the arrays next to it have not the plan's hash."""
    if isinstance(record, FirstPlanRecord):
        if record.arrays:
            raise PlanError(
                f"{path} has repairs of sandglass 0.1.0, which this version does not read", "make a new plan"
            )
        return ()
    arrays = load_arrays(path.with_suffix(".safetensors")) if record.arrays else {}
    if arrays_hash(arrays) != record.arrays:
        raise PlanError(
            f"{path} does not match the arrays in {path.with_suffix('.safetensors').name}", "keep both files together"
        )
    try:
        return edits_of([(entry.edit, entry.names) for entry in record.edits], arrays)
    except KeyError as error:
        raise PlanError(f"{path} has no array for {error.args[0]!r}", "keep both files together") from error


def _fields(entry: TensorRange | PlannedLayer) -> JsonObject:
    return {key: value for key, value in dataclasses.asdict(entry).items() if key != "name"}
