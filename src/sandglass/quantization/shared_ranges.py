"""Tensors that carry the values of others: what MaxPool, Resize to the nearest and Concat make is what they read.

On one grid these values are rounded once. On a grid of its own each tensor is rounded again, and a runtime that could
hand integers on has to go by way of floats. So they share a range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sandglass.quantization.plan import TensorRange


def shared(
    ranges: Mapping[str, TensorRange], stands: Mapping[str, str], read: Collection[str]
) -> dict[str, TensorRange]:
    """`ranges` with one range for tensors of the same values: that of those in `read`, by layers, or of all."""
    groups: dict[str, list[str]] = {}
    for name, standing in stands.items():
        groups.setdefault(standing, []).append(name)
    merged = dict(ranges)
    for names in groups.values():
        seen = [ranges[name] for name in names if name in read] or [ranges[name] for name in names]
        union = TensorRange(
            min(entry.minimum for entry in seen),
            max(entry.maximum for entry in seen),
            max(entry.threshold for entry in seen),
        )
        merged |= dict.fromkeys(names, union)
    return merged
