"""Parts of plans that the conformance tests compare."""

from __future__ import annotations

from dataclasses import replace

from sandglass.quantization.edits import SetWeights
from sandglass.quantization.edits_file import arrays_hash, arrays_of
from sandglass.quantization.plan import Plan


def unrounded(plan: Plan) -> Plan:
    """The plan without its rounded weights."""
    return replace(plan, edits=tuple(edit for edit in plan.edits if not isinstance(edit, SetWeights)))


def hash_of(plan: Plan) -> str:
    """Hash of the arrays of a plan's edits."""
    return arrays_hash(arrays_of(plan.edits))
