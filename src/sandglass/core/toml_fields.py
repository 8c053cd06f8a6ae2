"""TOML files that people write: read once, with errors that name the file, the key and the value."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sandglass.core.errors import InputError, shown
from sandglass.core.reading import read_text

MOST_BYTES = 1 << 18  # of a TOML file; a card has 1,000
MOST_DOTS = 100  # in a line: tomllib takes the square of the parts of a key
MOST_VALUES, MOST_LEVELS, MOST_LETTERS = 200_000, 50, 100_000  # a config with the names of 1,000 classes has 5,000

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, what: str, error: type[InputError], fix: str) -> dict[str, Any]:
    """The content of a TOML file; raises `error`, which says `what` it is, for anything else or beyond the limits."""
    text = read_text(path, error, what, MOST_BYTES)
    if max(line.count(".") for line in text.split("\n")) > MOST_DOTS:
        raise error(f"{path} has a line of over {MOST_DOTS} dots", fix)
    try:
        data = tomllib.loads(text)
    except ValueError as cause:
        raise error(f"{path} is not a TOML file: {cause}", fix) from cause
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply", fix) from cause
    if problem := excess(data):
        raise error(f"{path} {problem}", fix)
    return data


def excess(data: Any) -> str:
    """What in lists and dictionaries goes beyond the limits of a file that people write; "" where nothing does.

    A value that is referred to several times counts each time: a message or a copy would hold it so often.
    """
    waiting, count = [(data, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        parts = (
            [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        )
        count += 1 + len(parts)
        if count > MOST_VALUES:
            return f"has over {MOST_VALUES} values"
        if depth > MOST_LEVELS:
            return f"is nested over {MOST_LEVELS} levels deep"
        if isinstance(value, int) and value.bit_length() > 64:
            return "has a whole number of over 64 bits"
        if isinstance(value, str) and len(value) > MOST_LETTERS:
            return f"has a text of over {MOST_LETTERS} letters"
        waiting += [(part, depth + 1) for part in parts]
    return ""


class Fields:
    """Reads the fields of a file named `where`; what is wrong is raised as `error`, with `fix`."""

    def __init__(self, where: str, error: type[InputError], fix: str) -> None:
        self.where, self.error, self.fix = where, error, fix

    def fail(self, message: str) -> InputError:
        """The error for something wrong in this file."""
        return self.error(f"{self.where}: {message}", self.fix)

    def get(self, table: Mapping[str, Any], key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """A field of the given kind; it must be there where there is no default."""
        value = table.get(key, default)
        if value is ...:
            raise self.fail(f"the field {key!r} is missing")
        if value is not default and not isinstance(value, kind):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise self.fail(f"{key} is {shown(value)}, expected {names}")
        return value

    def only(self, table: Mapping[str, Any], allowed: Collection[str], name: str) -> None:
        """Refuse a field of a table that is not known."""
        if unknown := sorted(set(table) - set(allowed)):
            raise self.fail(f"unknown field {unknown[0]!r} in {name}, expected {', '.join(sorted(allowed))}")
