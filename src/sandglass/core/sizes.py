"""Sizes of images and inputs: (height, width)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Size = tuple[int, int]


def holds(shape: Size, size: Size) -> bool:
    """Whether `size` fits into `shape`."""
    return shape[0] >= size[0] and shape[1] >= size[1]


def area(size: Size) -> int:
    """The number of pixels."""
    return size[0] * size[1]


def text(size: Sequence[int]) -> str:
    """The size as users write it, `HxW`."""
    return f"{size[0]}x{size[1]}"


def extremes(shapes: Iterable[Size]) -> list[Size]:
    """The highest, the widest and the smallest shape without the first one: the shapes at which a graph is tested."""
    known = list(shapes)
    if not known:
        return []
    ends = {max(known), max(known, key=lambda size: size[::-1]), min(known, key=area)}
    return sorted(ends - {known[0]})
