"""TOML files that people write: read once, within limits, with errors that name the file."""

from __future__ import annotations

import sys
from pathlib import Path

from sandglass.core.errors import InputError
from sandglass.core.json_values import JsonObject
from sandglass.core.reading import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 1 << 18  # of a TOML file; a card has 1,000
MOST_DOTS = 100  # in a line: tomllib takes the square of the parts of a key
MOST_VALUES, MOST_LEVELS, MOST_LETTERS = 200_000, 50, 100_000  # a config with the names of 1,000 classes has 5,000


def read_toml(path: Path, what: str, error: type[InputError], fix: str) -> JsonObject:
    """The content of a TOML file; `what` says in errors what it is. Raises `error` for anything else."""
    text = read_text(path, error, what, MOST_BYTES)
    if max(line.count(".") for line in text.split("\n")) > MOST_DOTS:
        raise error(f"{path} has a line of over {MOST_DOTS} dots", fix)
    try:
        data: JsonObject = tomllib.loads(text)
    except ValueError as cause:
        raise error(f"{path} is not a TOML file: {cause}", fix) from cause
    except RecursionError as cause:
        raise error(f"{path} is nested too deeply", fix) from cause
    if problem := excess(data):
        raise error(f"{path} {problem}", fix)
    return data


def excess(data: object) -> str:
    """What in lists and dictionaries goes beyond the limits of a file that people write; "" where nothing does.

    A value that is referred to several times counts each time: a message or a copy would hold it that often.
    """
    waiting, count = [(data, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        parts = _parts(value)
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


def _parts(value: object) -> list[object]:
    """The values inside a value."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple) else []
