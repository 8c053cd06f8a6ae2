"""Output for a terminal with rich: tables that fit its width, errors as panels, and progress bars.

Only this module prints with rich. It is imported only for a terminal or for help. rich respects NO_COLOR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sandglass.cli.system import one_line
from sandglass.table.markdown import Row, columns_of, is_numeric

if TYPE_CHECKING:
    from sandglass.cli.bar import Bar

NARROWEST = 12  # characters of a column; a table that needs narrower columns is printed row by row
GAP = 3  # characters between the columns of a table
BORDER = 4  # characters of a panel's left and right border


class Screen(Console):
    """A console that raises BrokenPipeError for a closed pipe; the one of rich ends the process."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich caught."""
        raise BrokenPipeError


OUT, ERR = Screen(highlight=False), Screen(stderr=True, highlight=False)
_bar: Bar | None = None  # the progress bar on the screen


def print_parts(parts: Sequence[str | Sequence[Row]]) -> None:
    """Print paragraphs and tables on standard output, with an empty line between them."""
    close_bar()
    for number, part in enumerate(parts):
        if number:
            OUT.print()
        if isinstance(part, str):
            OUT.print(Text(part), soft_wrap=True)
        else:
            OUT.print(table(part, OUT.width))


def table(rows: Sequence[Row], width: int) -> Table:
    """The rows as a table of at most `width` characters, or as a list of fields if the columns do not fit."""
    columns = columns_of(rows)
    needed = sum(min(NARROWEST, _longest(rows, column)) + GAP for column in columns)
    return _grid(rows, columns) if needed <= width else _fields(rows)


def _longest(rows: Sequence[Row], column: str) -> int:
    return max(len(column), *(len(row.get(column, "")) for row in rows))


def _grid(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(Text(column), overflow="fold", justify="right" if is_numeric(rows, column) else "left")
    for row in rows:
        grid.add_row(*(Text(one_line(row.get(column, ""))) for column in columns))
    return grid


def _fields(rows: Sequence[Row]) -> Table:
    """Each row as lines `column  value`, with an empty line between rows."""
    fields = Table.grid(padding=(0, 2))
    fields.add_column(overflow="fold", style="bold")
    fields.add_column(overflow="fold")
    for number, row in enumerate(rows):
        if number:
            fields.add_row()
        for column, value in row.items():
            if value:
                fields.add_row(Text(column), Text(one_line(value)))
    return fields


def print_line(line: str) -> None:
    """Print a line on standard error, above the progress bar; a full bar is closed first.

    The terminal and not rich wraps the line, so that a path can be copied from it.
    """
    if _bar is not None and _bar.is_full():
        close_bar()
    ERR.print(Text(line), soft_wrap=True)


def print_error(message: str, fix: str) -> None:
    """Print an error and its fix in a panel, without borders if they would break a path."""
    close_bar()
    text = Text(message) if not fix else Text(message).append(f"\n{fix}", style="bold")
    if max(map(len, f"{message} {fix}".split())) > ERR.width - BORDER:
        ERR.print(Text("sandglass: ", style="red") + text, soft_wrap=True)
    else:
        ERR.print(Panel(text, title="sandglass", title_align="left", border_style="red", expand=False))


def show_bar(label: str, done: int, total: int, amount: str) -> None:
    """Show the progress of `label`. A new label closes the bar of the last one and starts a new bar below it."""
    from sandglass.cli.bar import Bar

    global _bar
    if _bar is None or _bar.label != label:
        close_bar()
        _bar = Bar(label, ERR)
    _bar.update(done, total, amount)


def close_bar() -> None:
    """End the bar, which stays on the screen, and show the cursor again. Without a bar, nothing happens."""
    global _bar
    if _bar is not None:
        _bar.close()
        _bar = None
