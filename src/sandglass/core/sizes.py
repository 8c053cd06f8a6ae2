"""Sizes of images and inputs: (height, width)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Size = tuple[int, int]


def holds(shape: Size, size: Size) -> bool:
    """Whether `size` fits in `shape`."""
    return shape[0] >= size[0] and shape[1] >= size[1]


def area(size: Size) -> int:
    """Pixels."""
    return size[0] * size[1]


def text(size: Sequence[int]) -> str:
    """As a user writes it: HxW."""
    return f"{size[0]}x{size[1]}"


def extremes(shapes: Iterable[Size]) -> list[Size]:
    """The highest, the widest and the smallest shape, apart from the first one: where a graph is tried."""
    known = list(shapes)
    if not known:
        return []
    ends = {max(known), max(known, key=lambda size: size[::-1]), min(known, key=area)}
    return sorted(ends - {known[0]})
