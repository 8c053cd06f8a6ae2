"""Choose at most K input shapes for images of many sizes, with the least padding.

Sizes are (height, width). An image runs in the shape with the fewest pixels that holds the size that it needs. The cost
of a choice is the sum of these pixels over all images. A chain is a sequence of sizes in which every size holds the one
before it. If the sizes form at most two chains, the choice is optimal. This is the case for networks with a fixed short
side: landscape images are one chain and portrait images the other. For other sizes the choice is a local optimum: no
exchange of a single shape improves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sandglass.core.sizes import Size, area, holds

STARTS = 16  # random starts of the local search
Counts = Mapping[Size, int]  # number of images by size


def choose(needed: Counts, most: int) -> dict[Size, int]:
    """Choose at most `most` shapes for the sizes `needed`. Returns the number of images that run in each shape.

    The result has fewer than `most` shapes only if another shape would not save a pixel.
    """
    sizes = sorted(needed)
    if len(sizes) <= most:
        return served(sizes, needed)
    chains = _chains(sizes)
    shapes = _exact([*chains, []], needed, most) if len(chains) <= 2 else _exchanged(sizes, needed, most)
    return served(shapes, needed)


def served(shapes: Iterable[Size], needed: Counts) -> dict[Size, int]:
    """The number of images that run in each of `shapes`. Shapes without images are left out.

    An image runs in the smallest shape that holds it. Each size in `needed` must fit into one of the shapes.
    """
    counts: dict[Size, int] = {}
    ordered = sorted(shapes, key=lambda shape: (area(shape), shape))
    for size, count in needed.items():
        shape = next(shape for shape in ordered if holds(shape, size))
        counts[shape] = counts.get(shape, 0) + count
    return dict(sorted(counts.items()))


def padding(shapes: Iterable[Size], needed: Counts) -> float:
    """Padded pixels over needed pixels, summed over all images: 0 without padding, 1 if half of the pixels are."""
    used = sum(area(shape) * count for shape, count in served(shapes, needed).items())
    return used / sum(area(size) * count for size, count in needed.items()) - 1


def nearest(shapes: Iterable[Size], size: Size) -> Size:
    """The shape that must grow by the fewest pixels to hold `size`."""
    return min(shapes, key=lambda shape: area(_join(shape, size)) - area(shape))


def _join(first: Size, second: Size) -> Size:
    return max(first[0], second[0]), max(first[1], second[1])


def _chains(sizes: Sequence[Size]) -> list[list[Size]]:
    """Split the sorted sizes into as few chains as possible. In a chain, every size holds the one before it.

    Each size is appended to the chain with the largest last width that is not over its own (patience sorting).
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
    """The optimal shapes for two chains; the second one may be empty. Dynamic programming over prefixes of the chains.

    In an optimal choice, the sizes of a chain that run in one shape are neighbours in the chain, and a larger shape
    serves later sizes of both chains. So the shapes can be ordered such that each serves the sizes i0 to i of the first
    chain and j0 to j of the second. After k steps, `costs[i, j]` is the smallest number of pixels for the first i sizes
    of the first chain and the first j of the second, with at most k shapes.
    """
    first, second = chains[0], chains[1]
    before = [np.cumsum([0, *(needed[size] for size in chain)]).astype(float) for chain in (first, second)]
    images = before[0][:, None] + before[1]
    costs = np.full(images.shape, np.inf)
    costs[0, 0] = 0
    steps: list[dict[Size, tuple[Size, Size]]] = []
    for _ in range(most):
        next_costs, step = costs.copy(), dict[Size, tuple[Size, Size]]()
        for i, j in np.ndindex(costs.shape):
            for shape, origins in _last_shapes(first, second, i, j):
                pixels = costs[origins] + area(shape) * (images[i, j] - images[origins])
                place = np.unravel_index(pixels.argmin(), pixels.shape)
                if pixels[place] < next_costs[i, j]:
                    next_costs[i, j] = pixels[place]
                    step[i, j] = shape, (origins[0].start + int(place[0]), origins[1].start + int(place[1]))
        if (next_costs == costs).all():
            break
        costs = next_costs
        steps.append(step)
    return _walk_back(steps, (len(first), len(second)))


def _last_shapes(
    first: Sequence[Size], second: Sequence[Size], i: int, j: int
) -> list[tuple[Size, tuple[slice, slice]]]:
    """The possible last shapes for the first i and j sizes, each with the prefixes (i0, j0) that it can extend."""
    choices = []
    if i:
        choices.append((first[i - 1], (slice(0, i), slice(j, j + 1))))
    if j:
        choices.append((second[j - 1], (slice(i, i + 1), slice(0, j))))
    if i and j:
        choices.append((_join(first[i - 1], second[j - 1]), (slice(0, i), slice(0, j))))
    return choices


def _walk_back(steps: Sequence[Mapping[Size, tuple[Size, Size]]], end: Size) -> list[Size]:
    """The shapes of the optimal choice for the prefixes `end`, the last shape first."""
    shapes = []
    for step in reversed(steps):
        if end in step:  # otherwise this step did not reduce the cost
            shape, end = step[end]
            shapes.append(shape)
    return shapes


def _exchanged(sizes: Sequence[Size], needed: Counts, most: int) -> list[Size]:
    """Shapes that no exchange of a single shape improves: the best result of STARTS random starts."""
    every = np.array([(h, w) for h in sorted({h for h, _ in sizes}) for w in sorted({w for _, w in sizes})])
    areas = every.prod(axis=1).astype(float)
    held = (every[:, None] >= np.array(sizes)).all(axis=2)
    counts = np.array([needed[size] for size in sizes], float)
    # (candidates, sizes): pixels of all images of a size in each candidate. An image that does not fit costs more than
    # all images together that fit.
    pixels = np.where(held, areas[:, None], 2 * areas.max() * counts.sum()) * counts
    random = np.random.default_rng(0)
    choices = [_improved(pixels, list(random.choice(len(every), most, replace=False))) for _ in range(STARTS)]
    best = min(choices, key=lambda chosen: float(pixels[chosen].min(axis=0).sum()))
    return [(int(every[i, 0]), int(every[i, 1])) for i in best]


def _improved(pixels: np.ndarray, chosen: list[int]) -> list[int]:
    """Exchange one chosen candidate at a time for the best replacement, until no exchange reduces the total.

    `pixels` is (candidates, sizes); `chosen` and the result are indices of candidates.
    """
    total, last = float(pixels[chosen].min(axis=0).sum()), np.inf
    while total < last:
        last = total
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            totals = np.minimum(pixels, pixels[rest].min(axis=0, initial=np.inf)).sum(axis=1)
            if totals.min() < total:
                chosen, total = [*rest, int(totals.argmin())], float(totals.min())
    return chosen
