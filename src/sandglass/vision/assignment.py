"""The one-to-one matching of two small sets with the least cost, by Munkres' method.

Several matchings may have the same cost. The result then depends on the order in which zeros are searched. The order
here is that of the Python library `munkres`, which mmpose uses, so that the same people are grouped.
"""

from __future__ import annotations

import numpy as np

LEFT_OVER = 1e10  # cost of a row without a column, as in mmpose: far above the cost of any match
FREE = -1


def assign(costs: np.ndarray) -> np.ndarray:
    """The column of each row, (M,), in the matching with the least total cost of a matrix (M, N).

    min(M, N) pairs are matched; a row without a column has -1.
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
    """The column of each row and the row of each column, if each row in turn takes its first free zero."""
    column, row = np.full((2, len(square)), FREE)
    for i, zeros in enumerate(square == 0):
        free = np.flatnonzero(zeros & (row == FREE))
        if len(free):
            column[i], row[free[0]] = free[0], i
    return column, row


def _match_one_more(square: np.ndarray, column: np.ndarray, row: np.ndarray) -> None:
    """Give one more row a column; other rows may move to another column. Changes all three arrays.

    `square` has the reduced costs: 0 for a match of the least cost.
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
    """The first row with a zero, counted from `row`, and its last zero, counted from `column`; both wrap around."""
    size = len(zeros)
    rows = np.flatnonzero(zeros.any(axis=1))
    i = rows[((rows - row) % size).argmin()]
    columns = np.flatnonzero(zeros[i])
    return int(i), int(columns[((columns - column) % size).argmax()])


def _reduce(square: np.ndarray, covered: np.ndarray, open_columns: np.ndarray) -> None:
    """Subtract the least cost of the open rows and columns, so that a new zero appears; matches keep their zeros."""
    least = square[np.ix_(~covered, open_columns)].min()
    square[covered] += least
    square[:, open_columns] -= least
