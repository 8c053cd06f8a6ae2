"""The content of a plan's file as types: unknown fields and wrong values raise an error that names the field."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from sandglass.core.errors import PlanError, shown
from sandglass.core.files import read_json
from sandglass.core.json_values import JsonObject
from sandglass.core.records import Record, to_record

FORMAT = 2  # sandglass 0.1.0 wrote format 1
FIX = "edit the plan, or start from one that `sandglass deploy` wrote"


class RangeRecord(Record, frozen=True):
    """The range of a tensor: see `TensorRange`."""

    minimum: float
    maximum: float
    threshold: float

    def __post_init__(self) -> None:
        numbers = (self.minimum, self.maximum, self.threshold)
        if not all(map(math.isfinite, numbers)) or self.threshold < 0:
            raise ValueError(f"the range is {numbers}, expected finite numbers and a threshold above 0")
        if self.minimum > self.maximum:
            raise ValueError(f"the minimum {self.minimum} is above the maximum {self.maximum}")
        if self.threshold == 0 and (self.minimum or self.maximum):
            raise ValueError("the threshold is 0, expected the largest magnitude of the tensor")


class LayerRecord(Record, frozen=True):
    """The decision on a layer: see `PlannedLayer`."""

    operator: str
    input: str
    output: str
    weight: str
    weight_bits: Literal[6, 7, 8] = 8
    keep_float: bool = False
    reason: str = ""


class EditRecord(Record, frozen=True):
    """An edit of the network, and the tensors or layers that it changes; the file next to the plan has its arrays."""

    edit: Literal["shift channels", "read bytes", "set weights"]
    names: tuple[str, ...]


class _AnyPlanRecord(Record, frozen=True, kw_only=True):
    """The fields of plans of every format. `arrays` is the hash of the file with arrays next to the plan, or ""."""

    graph: str
    method: str
    calibration: JsonObject
    tensors: dict[str, RangeRecord]
    layers: dict[str, LayerRecord]
    repairs: tuple[str, ...] = ()
    arrays: str = ""


class PlanRecord(_AnyPlanRecord, frozen=True, kw_only=True):
    """A plan: see `Plan`. `arrays` is the hash of the arrays in the file next to it, or "" if it has none."""

    format: Literal[2]
    edits: tuple[EditRecord, ...] = ()


class FirstPlanRecord(_AnyPlanRecord, frozen=True, kw_only=True):
    """A plan of sandglass 0.1.0, without a list of edits."""

    format: Literal[1]
    split: tuple[str, ...] = ()  # not read: a plan that has it has arrays too


def read_plan_record(path: Path) -> PlanRecord | FirstPlanRecord:
    """The content of a plan's file. Raises PlanError for a file that is not a plan."""
    data = read_json(path, PlanError)
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version not in (1, FORMAT):
        raise PlanError(f"{path} is not a plan: format is {shown(version)}, expected {FORMAT}", FIX)
    if version == FORMAT:
        return to_record(data, PlanRecord, str(path), PlanError, FIX)
    return to_record(data, FirstPlanRecord, str(path), PlanError, FIX)
