"""One range for tensors that hold the same values: the outputs of MaxPool, Concat and Resize to the nearest pixel.

These operators copy values from their inputs. If all tensors of such a group have the same range, a value is rounded
once and its integer is passed on. With a range of its own each tensor would be rounded again, and the runtime would
have to convert to float and back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sandglass.quantization.plan import TensorRange


def shared(
    ranges: Mapping[str, TensorRange], stands: Mapping[str, str], read: Collection[str]
) -> dict[str, TensorRange]:
    """`ranges`, in which all tensors of a group have one range.

    `stands` gives for each tensor the one that stands for its group. The range is the union over the tensors of the
    group that layers read, which are in `read`, or over all of them if layers read none.
    """
    groups: dict[str, list[str]] = {}
    for name, standing in stands.items():
        groups.setdefault(standing, []).append(name)
    merged = dict(ranges)
    for names in groups.values():
        group = [ranges[name] for name in names if name in read] or [ranges[name] for name in names]
        union = TensorRange(
            min(entry.minimum for entry in group),
            max(entry.maximum for entry in group),
            max(entry.threshold for entry in group),
        )
        merged |= dict.fromkeys(names, union)
    return merged
