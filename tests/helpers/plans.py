"""Parts of plans that tests look at."""

from __future__ import annotations

from sandglass.cli.conformance.plans import hash_of, unrounded
from sandglass.quantization.edits import ReadBytes
from sandglass.quantization.plan import Plan

__all__ = ["hash_of", "pixels", "unrounded"]


def pixels(plan: Plan) -> ReadBytes:
    """The edit that reads inputs as bytes, perhaps of no input."""
    return next((edit for edit in plan.edits if isinstance(edit, ReadBytes)), ReadBytes({}, {}))
