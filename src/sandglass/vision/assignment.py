"""The cheapest one-to-one matching of two small sets, by Munkres' method.

Several matchings may cost the same. Which of them is the result depends on the order in which zeros are looked for.
Here that is the order of the Python library `munkres`, which mmpose uses: it groups the same people.
"""

from __future__ import annotations

import numpy as np

LEFT_OVER = 1e10  # the cost of a row without a column, as in mmpose: far above the cost of any match
FREE = -1


def assign(costs: np.ndarray) -> np.ndarray:
    """The column of each row (M,) in the matching of least total cost of a matrix (M, N); -1 for rows left over.

    min(M, N) pairs are matched.
    """
    rows, columns = costs.shape
    cheapest = costs.argmin(axis=1)
    if len(np.unique(cheapest)) == rows:
        return cheapest
    side = max(rows, columns)
    square = np.zeros((side, side))
    square[:rows, :columns], square[:rows, columns:] = costs, LEFT_OVER
    square -= square.min(axis=1, keepdims=True)
    column, row = _first_zeros(square)
    while FREE in column:
        _match_one_more(square, column, row)
    return np.where(column < columns, column, FREE)[:rows]


def _first_zeros(square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The column of each row and the row of each column where rows take their first zero that is not taken."""
    column, row = np.full((2, len(square)), FREE)
    for i, zeros in enumerate(square == 0):
        free = np.flatnonzero(zeros & (row == FREE))
        if len(free):
            column[i], row[free[0]] = free[0], i
    return column, row


def _match_one_more(square: np.ndarray, column: np.ndarray, row: np.ndarray) -> None:
    """Give one more row a column; rows that have one may move. Changes all three arrays in place.

    `square` keeps the reduced costs: 0 where a match is as cheap as can be.
    """
    zero = np.full(len(square), FREE)  # the column to which a row may move
    covered, open_columns = np.zeros(len(square), bool), row == FREE
    i = first = 0
    while True:
        zeros = (square == 0) & open_columns & ~covered[:, None]
        if not zeros.any():
            _reduce(square, covered, open_columns)
            i = first = 0
            continue
        i, j = _next_zero(zeros, i, first)
        zero[i] = j
        if column[i] == FREE:
            break
        covered[i], open_columns[column[i]], first = True, True, column[i]
    while i != FREE:
        j = zero[i]
        column[i], row[j], i = j, i, row[j]


def _next_zero(zeros: np.ndarray, row: int, column: int) -> tuple[int, int]:
    """The first row that has a zero, counted from `row`, and its last zero, counted from `column`; both wrap around."""
    size = len(zeros)
    rows = np.flatnonzero(zeros.any(axis=1))
    i = rows[((rows - row) % size).argmin()]
    columns = np.flatnonzero(zeros[i])
    return int(i), int(columns[((columns - column) % size).argmax()])


def _reduce(square: np.ndarray, covered: np.ndarray, open_columns: np.ndarray) -> None:
    """Make the least cost in the open rows and columns 0, in place; matches of covered rows keep theirs."""
    least = square[np.ix_(~covered, open_columns)].min()
    square[covered] += least
    square[:, open_columns] -= least
