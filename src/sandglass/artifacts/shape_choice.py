"""Which input shapes to build a network for, when images need many: at most K rectangles with the least padding.

Sizes are (height, width). An image runs in the rectangle of the fewest pixels that holds what it needs, so rectangles
cost the sum over images of their areas. Where the sizes form up to two chains, in each of which every size holds the
one before it, the choice is exact: as with networks whose short side is fixed, where landscapes and portraits are such
chains. For others it is a local optimum that no exchange of a single rectangle improves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sandglass.core.sizes import Size, area, holds

BEGINNINGS = 16
Counts = Mapping[Size, int]


def choose(needed: Counts, most: int) -> dict[Size, int]:
    """At most `most` shapes for the sizes `needed`, by how many images need each; returns how many run in each.

    Fewer shapes are returned only where more would save nothing.
    """
    sizes = sorted(needed)
    if len(sizes) <= most:
        return served(sizes, needed)
    chains = _chains(sizes)
    found = _exact([*chains, []], needed, most) if len(chains) <= 2 else _exchanged(sizes, needed, most)
    return served(found, needed)


def served(shapes: Iterable[Size], needed: Counts) -> dict[Size, int]:
    """How many images run in each of `shapes`, each in the smallest that holds it; shapes without images are left out.

    Every size needed must fit one of the shapes.
    """
    counts: dict[Size, int] = {}
    ordered = sorted(shapes, key=lambda shape: (area(shape), shape))
    for size, count in needed.items():
        shape = next(shape for shape in ordered if holds(shape, size))
        counts[shape] = counts.get(shape, 0) + count
    return dict(sorted(counts.items()))


def padding(shapes: Iterable[Size], needed: Counts) -> float:
    """Pixels of the shapes that images run in, over the pixels that they need, less 1: the share that is wasted."""
    used = sum(area(shape) * count for shape, count in served(shapes, needed).items())
    return used / sum(area(size) * count for size, count in needed.items()) - 1


def nearest(shapes: Iterable[Size], size: Size) -> Size:
    """The shape that has to grow by the fewest pixels to hold `size`."""
    return min(shapes, key=lambda shape: area(_join(shape, size)) - area(shape))


def _join(first: Size, second: Size) -> Size:
    return max(first[0], second[0]), max(first[1], second[1])


def _chains(sizes: Sequence[Size]) -> list[list[Size]]:
    """Sizes, sorted, in as few chains as possible, in each of which every size holds the one before it.

    Each goes to the chain whose last width is the largest that it holds (patience sorting).
    """
    chains: list[list[Size]] = []
    for size in sizes:
        fitting = [chain for chain in chains if chain[-1][1] <= size[1]]
        if fitting:
            max(fitting, key=lambda chain: chain[-1][1]).append(size)
        else:
            chains.append([size])
    return chains


def _exact(chains: Sequence[Sequence[Size]], needed: Counts, most: int) -> list[Size]:
    """The best shapes for two chains, the second of which may be empty.

    In a best choice the sizes of a chain that one shape serves are neighbours, and shapes that serve both chains rise
    in both. So shapes can be put in an order in which each serves the next i - i0 sizes of the first chain and the next
    j - j0 of the second, and `costs[i, j]` is the least for the first i and j sizes with as many shapes as steps made.
    """
    first, second = chains[0], chains[1]
    before = [np.cumsum([0, *(needed[size] for size in chain)]).astype(float) for chain in (first, second)]
    images = before[0][:, None] + before[1]
    costs = np.full(images.shape, np.inf)
    costs[0, 0] = 0
    steps: list[dict[Size, tuple[Size, Size]]] = []
    for _ in range(most):
        following, step = costs.copy(), dict[Size, tuple[Size, Size]]()
        for i, j in np.ndindex(costs.shape):
            for shape, origins in _last_shapes(first, second, i, j):
                pixels = costs[origins] + area(shape) * (images[i, j] - images[origins])
                place = np.unravel_index(pixels.argmin(), pixels.shape)
                if pixels[place] < following[i, j]:
                    following[i, j] = pixels[place]
                    step[i, j] = shape, (origins[0].start + int(place[0]), origins[1].start + int(place[1]))
        if (following == costs).all():
            break
        costs = following
        steps.append(step)
    return _walk_back(steps, (len(first), len(second)))


def _last_shapes(
    first: Sequence[Size], second: Sequence[Size], i: int, j: int
) -> list[tuple[Size, tuple[slice, slice]]]:
    """Shapes that may be the last one for the first i and j sizes, with the range of places that they come from."""
    found = []
    if i:
        found.append((first[i - 1], (slice(0, i), slice(j, j + 1))))
    if j:
        found.append((second[j - 1], (slice(i, i + 1), slice(0, j))))
    if i and j:
        found.append((_join(first[i - 1], second[j - 1]), (slice(0, i), slice(0, j))))
    return found


def _walk_back(steps: Sequence[Mapping[Size, tuple[Size, Size]]], end: Size) -> list[Size]:
    shapes = []
    for step in reversed(steps):
        if end in step:  # else one shape less did as well
            shape, end = step[end]
            shapes.append(shape)
    return shapes


def _exchanged(sizes: Sequence[Size], needed: Counts, most: int) -> list[Size]:
    """Shapes that no exchange of one improves: the best of what is reached from several random beginnings."""
    every = np.array([(h, w) for h in sorted({h for h, _ in sizes}) for w in sorted({w for _, w in sizes})])
    areas = every.prod(axis=1).astype(float)
    held = (every[:, None] >= np.array(sizes)).all(axis=2)
    counts = np.array([needed[size] for size in sizes], float)
    # Pixels of all images of a size in each candidate. One image that does not fit costs more than all that do.
    pixels = np.where(held, areas[:, None], 2 * areas.max() * counts.sum()) * counts
    random = np.random.default_rng(0)
    found = [_improved(pixels, list(random.choice(len(every), most, replace=False))) for _ in range(BEGINNINGS)]
    best = min(found, key=lambda chosen: float(pixels[chosen].min(axis=0).sum()))
    return [(int(every[i, 0]), int(every[i, 1])) for i in best]


def _improved(pixels: np.ndarray, chosen: list[int]) -> list[int]:
    """Candidates with each exchanged for the one that makes the total least, until none does."""
    total, last = float(pixels[chosen].min(axis=0).sum()), np.inf
    while total < last:
        last = total
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            totals = np.minimum(pixels, pixels[rest].min(axis=0, initial=np.inf)).sum(axis=1)
            if totals.min() < total:
                chosen, total = [*rest, int(totals.argmin())], float(totals.min())
    return chosen
