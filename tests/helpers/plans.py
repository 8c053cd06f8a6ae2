"""Parts of plans that tests look at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sandglass.cli.conformance.plans import hash_of, unrounded
from sandglass.quantization.edits import ReadBytes, ScaleChannels
from sandglass.quantization.plan import Plan

__all__ = ["factors", "hash_of", "pixels", "unrounded"]


def factors(plan: Plan) -> Mapping[str, np.ndarray]:
    """The factors that a plan divides channels by, by tensor."""
    return next((edit.factors for edit in plan.edits if isinstance(edit, ScaleChannels)), {})


def pixels(plan: Plan) -> ReadBytes:
    """The edit that reads inputs as bytes, perhaps of no input."""
    return next((edit for edit in plan.edits if isinstance(edit, ReadBytes)), ReadBytes({}, {}))
