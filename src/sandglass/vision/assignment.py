"""The cheapest one-to-one matching of two small sets."""

from __future__ import annotations

import numpy as np


def assign(costs: np.ndarray) -> np.ndarray:
    """The column of each row (M,) in the matching of least total cost of a matrix (M, N); -1 for rows left over.

    min(M, N) pairs are matched. Rows take the cheapest column each; where several want the same, all but the first of
    them find another by shortest augmenting paths (Jonker and Volgenant, 1987), one row after the other.
    """
    rows, columns = costs.shape
    if rows > columns:
        owners = assign(costs.T)
        result = np.full(rows, -1)
        result[owners] = np.arange(columns)
        return result
    cheapest = costs.argmin(axis=1)
    taken, first = np.unique(cheapest, return_index=True)
    if len(taken) == rows:
        return cheapest
    owner = np.full(columns, -1)
    owner[taken] = first
    row_price, column_price = costs.min(axis=1), np.zeros(columns)
    for row in np.setdiff1d(np.arange(rows), first):
        _augment(costs - column_price, row, owner, row_price, column_price)
    result = np.empty(rows, int)
    matched = np.flatnonzero(owner >= 0)
    result[owner[matched]] = matched
    return result


def _augment(costs: np.ndarray, row: int, owner: np.ndarray, row_price: np.ndarray, column_price: np.ndarray) -> None:
    """Give `row` a column, moving other rows along the cheapest path to a free one; in place but for `costs`."""
    columns = costs.shape[1]
    distance, before = np.full(columns, np.inf), np.full(columns, -1)
    done = np.zeros(columns, bool)
    last, at, travelled = -1, row, 0.0
    while True:
        reach = costs[at] + (travelled - row_price[at])
        nearer = (reach < distance) & ~done
        np.copyto(distance, reach, where=nearer)
        before[nearer] = last
        last = int(np.where(done, np.inf, distance).argmin())
        travelled = distance[last]
        if owner[last] < 0:
            break
        done[last], at = True, owner[last]
    row_price[row] += travelled
    row_price[owner[done]] += travelled - distance[done]
    column_price[done] -= travelled - distance[done]
    while last >= 0:
        previous = before[last]
        owner[last] = row if previous < 0 else owner[previous]
        last = int(previous)
