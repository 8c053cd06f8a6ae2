"""The cheapest matching is found, whatever the shape."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.vision.assignment import assign

# What munkres 1.1.4 gives for costs 0, 1 and 2, drawn by a seed; columns of 1e10 are added where rows are left over.
TIES: list[tuple[tuple[int, int], int, list[int]]] = [
    ((3, 3), 0, [1, 0, 2]),
    ((3, 3), 1, [0, 1, 2]),
    ((4, 6), 0, [3, 0, 1, 2]),
    ((4, 6), 1, [4, 2, 0, 1]),
    ((6, 4), 0, [3, 1, 0, -1, 2, -1]),
    ((6, 4), 1, [-1, 1, 0, 2, 3, -1]),
    ((5, 5), 0, [4, 3, 2, 1, 0]),
    ((5, 5), 1, [4, 0, 2, 3, 1]),
    ((8, 8), 0, [6, 0, 4, 3, 5, 2, 1, 7]),
    ((8, 8), 1, [4, 0, 2, 1, 5, 3, 7, 6]),
    ((9, 7), 0, [5, -1, 6, 2, 4, 1, 0, 3, -1]),
    ((9, 7), 1, [-1, 1, 0, -1, 2, 5, 4, 3, 6]),
]


def cheapest(costs: np.ndarray) -> float:
    """The least total over all matchings."""
    if len(costs) > costs.shape[1]:
        costs = costs.T
    rows = range(len(costs))
    return min(sum(costs[i, p[i]] for i in rows) for p in permutations(range(costs.shape[1]), len(costs)))


@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6), columns=st.integers(1, 6), coarse=st.booleans(),
)  # fmt: skip
def test_no_matching_is_cheaper(seed: int, rows: int, columns: int, coarse: bool) -> None:
    """As many pairs as fit, each row and column in one at most, and the least total; with equal costs too."""
    costs = np.random.default_rng(seed).normal(0, 10, (rows, columns))
    costs = np.round(costs / 10) if coarse else costs
    before = costs.copy()
    chosen = assign(costs)
    np.testing.assert_array_equal(costs, before)
    pairs = [(i, j) for i, j in enumerate(chosen) if j >= 0]
    assert len({j for _, j in pairs}) == len(pairs) == min(rows, columns)
    assert sum(costs[i, j] for i, j in pairs) == pytest.approx(cheapest(costs))


def test_thirty_by_thirty_is_matched() -> None:
    """A permutation hidden in noise is found."""
    hidden = np.random.default_rng(0).permutation(30)
    costs = np.random.default_rng(1).uniform(1, 2, (30, 30))
    costs[np.arange(30), hidden] = 0.5
    np.testing.assert_array_equal(assign(costs), hidden)


@pytest.mark.parametrize(("shape", "seed", "expected"), TIES)
def test_equal_costs_are_decided_as_by_munkres(shape: tuple[int, int], seed: int, expected: list[int]) -> None:
    """Of several matchings that cost the same it is the one of the library that mmpose uses."""
    costs = np.random.default_rng(seed).integers(0, 3, shape).astype(float)
    assert assign(costs).tolist() == expected
