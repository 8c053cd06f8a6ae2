"""The quantization plan: what becomes int8, at which ranges, what stays in float and why, and edits before rounding.

A plan knows the graph, not a runtime. Scales of weights are not in it: they follow from the weights, one for each
output channel. A plan's file is JSON, made to be edited; the arrays of its edits lie beside it (see `edits_file`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sandglass.core.errors import PlanError
from sandglass.core.files import atomic_file, read_json
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

FORMAT = 2
READABLE = (1, FORMAT)  # 1 is that of 0.1.0
FIELDS = {"graph": str, "method": str, "calibration": dict, "tensors": dict, "layers": dict}
WEIGHT_BITS = (6, 7, 8)


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
    calibration: dict[str, Any] = dataclasses.field(default_factory=dict)
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
        """Read a plan. Raises PlanError for what is no plan, a number that cannot be a range, or a wrong type."""
        data = read_json(path, PlanError)
        try:
            if data["format"] not in READABLE:
                raise PlanError(f"{path} has format {data['format']}, expected {FORMAT}", "make the plan again")
            for field, kind in FIELDS.items():
                if not isinstance(data[field], kind):
                    raise PlanError(f"{path}: {field} is {data[field]!r}, expected a {kind.__name__}", "edit the plan")
            tensors = {name: _range(path, name, entry) for name, entry in data["tensors"].items()}
            layers = {name: _layer(path, name, entry) for name, entry in data["layers"].items()}
            repairs = tuple(data.get("repairs", ()))
            edits = _edits(path, data)
            return Plan(data["graph"], data["method"], tensors, layers, data["calibration"], repairs, edits)
        except (KeyError, TypeError) as error:
            raise PlanError(f"{path} is not a plan: {error}", "start from one that `sandglass deploy` wrote") from error

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


def _edits(path: Path, data: Mapping[str, Any]) -> tuple[Edit, ...]:
    """The edits of a plan in the file `path`, with the arrays beside it, which have to have the hash in the plan."""
    arrays = load_arrays(path.with_suffix(".safetensors")) if data.get("arrays") else {}
    if arrays_hash(arrays) != data.get("arrays", ""):
        raise PlanError(f"{path} belongs to other arrays than those beside it", "keep both files together")
    if data["format"] == FORMAT:
        return edits_of([(entry["edit"], entry["names"]) for entry in data["edits"]], arrays)
    return edits_of_format_1(data.get("split", ()), arrays)


def _fields(entry: TensorRange | PlannedLayer) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(entry).items() if key != "name"}


def _layer(path: Path, name: str, entry: Mapping[str, Any]) -> PlannedLayer:
    found = PlannedLayer(name=name, **entry)
    if type(found.weight_bits) is not int or found.weight_bits not in WEIGHT_BITS:
        raise PlanError(f"{path}: {name} has weight_bits {found.weight_bits!r}, expected 6, 7 or 8", "edit the plan")
    if not isinstance(found.keep_float, bool):
        raise PlanError(f"{path}: {name} has keep_float {found.keep_float!r}, expected true or false", "edit the plan")
    return found


def _range(path: Path, name: str, entry: Mapping[str, float]) -> TensorRange:
    found = TensorRange(**entry)
    numbers = dataclasses.astuple(found)
    if not all(type(v) in (int, float) and math.isfinite(v) for v in numbers) or found.threshold < 0:
        raise PlanError(f"{path}: the range of {name} is {numbers}, expected finite numbers and a threshold above 0",
                        "edit the plan")  # fmt: skip
    if found.minimum > found.maximum:
        raise PlanError(f"{path}: the minimum of {name} is {found.minimum}, above its maximum {found.maximum}",
                        "edit the plan")  # fmt: skip
    if found.threshold == 0 and (found.minimum or found.maximum):
        raise PlanError(f"{path}: the threshold of {name} is 0", "give it the largest magnitude of the tensor")
    return found
