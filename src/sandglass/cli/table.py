"""`sandglass deploy all-of`: a table of models, backends and precisions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandglass.cli.options import Progress, say, write_result

COMMAND = ("deploy", "all-of")


def joined(argv: Sequence[str]) -> list[str]:
    """The arguments with the two words of the command as one, which is how a parser can tell it from `deploy`."""
    if tuple(argv[:2]) == COMMAND:
        return [" ".join(COMMAND), *argv[2:]]
    return list(argv)


def add_all_of(commands: Any) -> None:
    """Adds `sandglass deploy all-of`."""
    command = commands.add_parser(" ".join(COMMAND), help="a table of models, backends and precisions in one go")
    command.set_defaults(run=_run)
    command.add_argument("table", type=Path, metavar="TABLE.toml", help="see docs/table.md")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets the table; what is there already is kept"
    )


def _run(arguments: argparse.Namespace) -> int:
    from sandglass.core import host
    from sandglass.core.files import atomic_file
    from sandglass.table import render
    from sandglass.table.file import read_table
    from sandglass.table.run import deploy_all

    lines = deploy_all(read_table(arguments.table), arguments.out, say=say, progress=Progress)
    page = render.page(lines, host.describe())
    print(page)
    for name, text in (("table.md", page), ("table.csv", render.comma_separated(lines))):
        with atomic_file(arguments.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_result(arguments.out / "table.json", {"cells": render.numbers(lines), "host": host.describe()})
    return 2 if any(cell.reason for line in lines for cell in line.cells) else 0
