"""Parts of plans that tests look at."""

from __future__ import annotations

from dataclasses import replace

from sandglass.quantization.edits import ReadBytes, SetWeights
from sandglass.quantization.edits_file import arrays_hash, arrays_of
from sandglass.quantization.plan import Plan


def pixels(plan: Plan) -> ReadBytes:
    """The edit that reads inputs as bytes, perhaps of no input."""
    return next((edit for edit in plan.edits if isinstance(edit, ReadBytes)), ReadBytes({}, {}))


def unrounded(plan: Plan) -> Plan:
    """The plan without its rounded weights."""
    return replace(plan, edits=tuple(edit for edit in plan.edits if not isinstance(edit, SetWeights)))


def hash_of(plan: Plan) -> str:
    """Hash of the arrays of a plan's edits."""
    return arrays_hash(arrays_of(plan.edits))
