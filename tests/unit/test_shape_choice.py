"""Shapes for images of many sizes: the best choice, by trying every other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sandglass.artifacts import shape_choice
from sandglass.core.sizes import Size


def cheapest(needed: dict[Size, int], most: int) -> int:
    """Pixels of the best choice among all sets of candidate shapes."""
    every = [(h, w) for h in sorted({h for h, _ in needed}) for w in sorted({w for _, w in needed})]
    return min(
        sum(shape_choice.area(shape) * count for shape, count in shape_choice.served(chosen, needed).items())
        for chosen in combinations(every, most)
        if all(any(shape_choice.holds(shape, size) for shape in chosen) for size in needed)
    )


def pixels(found: dict[Size, int]) -> int:
    return sum(shape_choice.area(shape) * count for shape, count in found.items())


def landscapes_and_portraits(seed: int) -> dict[Size, int]:
    """Four sizes of each, short side 8."""
    random = np.random.default_rng(seed)
    longs = [random.choice(np.arange(8, 30), 4, replace=False) for _ in range(2)]
    sizes = [(8, int(w)) for w in longs[0]] + [(int(h), 8) for h in longs[1]]
    return {size: int(random.integers(1, 20)) for size in sizes}


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_two_chains_are_served_at_the_least_cost(seed: int, most: int) -> None:
    """With a fixed short side no other set of as many rectangles has fewer pixels."""
    needed = landscapes_and_portraits(seed)
    found = shape_choice.choose(needed, most)
    assert len(found) <= most
    assert sum(found.values()) == sum(needed.values())
    assert pixels(found) == cheapest(needed, most)


def test_one_rectangle_may_serve_both_orientations() -> None:
    """Rare shapes of both kinds share a rectangle where the frequent ones are worth their own."""
    needed = {(8, 8): 1, (8, 9): 1, (9, 8): 1, (8, 20): 100, (20, 8): 100}
    assert set(shape_choice.choose(needed, 3)) == {(9, 9), (8, 20), (20, 8)}


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_sizes_of_any_kind_are_served_nearly_as_well(seed: int, most: int) -> None:
    """With both sides free the choice is within 5 % of the best."""
    random = np.random.default_rng(seed)
    needed = {(int(h), int(w)): int(n) for h, w, n in random.integers(1, 12, (6, 3))}
    found = shape_choice.choose(needed, most)
    assert sum(found.values()) == sum(needed.values())
    assert pixels(found) <= 1.05 * cheapest(needed, min(most, len(needed)))


def test_more_shapes_never_cost_more() -> None:
    """Padding falls with the number of shapes, to nothing where every size has its own."""
    random = np.random.default_rng(0)
    needed = {(512, int(w)): 1 + int(w) % 7 for w in 64 * random.choice(np.arange(8, 40), 20, replace=False)}
    wasted = [shape_choice.padding(shape_choice.choose(needed, most), needed) for most in range(1, 21)]
    assert wasted == sorted(wasted, reverse=True)
    assert wasted[0] > 0.3
    assert wasted[-1] == 0
    assert shape_choice.choose(needed, 50) == dict(sorted(needed.items()))


def test_a_shape_that_saves_nothing_is_left_out() -> None:
    """An image that another shape serves at the same cost needs none of its own."""
    assert shape_choice.served([(8, 8), (8, 16), (16, 16)], {(5, 8): 2, (8, 9): 1}) == {(8, 8): 2, (8, 16): 1}


def test_the_nearest_shape_has_to_grow_least() -> None:
    """It is told when nothing fits."""
    assert shape_choice.nearest([(512, 512), (512, 704), (704, 512)], (512, 768)) == (512, 704)
    assert shape_choice.nearest([(512, 512), (512, 704), (704, 512)], (900, 500)) == (704, 512)
