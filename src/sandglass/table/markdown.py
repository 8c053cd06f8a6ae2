"""Rows as a Markdown table. A row maps column names to text; a column exists if at least one row names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Row = dict[str, str]


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table with aligned columns, in the order in which the rows first name them."""
    columns = columns_of(rows)
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(columns))]
    right = [is_numeric(rows, column) for column in columns]
    padded = [[_padded(*cell) for cell in zip(line, widths, right, strict=True)] for line in lines]
    rule = ["-" * (width - 1) + (":" if number else "-") for width, number in zip(widths, right, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def columns_of(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """All column names, in the order in which the rows first name them."""
    return list(dict.fromkeys(column for row in rows for column in row))


def is_numeric(rows: Sequence[Mapping[str, str]], column: str) -> bool:
    """Whether every cell of a column is a number or empty."""
    return all(_is_number(row.get(column, "")) for row in rows)


def _is_number(text: str) -> bool:
    return not text or text[0].isdigit() or text[0] in "+-"


def _padded(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)
