"""Read TOML files that people write, with limits on their size, and with errors that name the file."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sandglass.core.errors import InputError
from sandglass.core.json_values import JsonObject
from sandglass.core.reading import read_text

MOST_BYTES = 1 << 18  # bytes of a TOML file; a card has about 1,000
MOST_DOTS = 100  # dots in a line: the time of tomllib is quadratic in the parts of a dotted key
# Values, levels of nesting, and letters of one text. A config with the names of 1,000 classes has 5,000 values.
MOST_VALUES, MOST_LEVELS, MOST_LETTERS = 200_000, 50, 100_000


def read_toml(path: Path, what: str, error: type[InputError], fix: str) -> JsonObject:
    """The content of a TOML file. Raises `error` with `fix` for a file that is not TOML or exceeds a limit.

    `what` names the kind of file in errors.
    """
    text = read_text(path, error, what, MOST_BYTES)
    if max(line.count(".") for line in text.split("\n")) > MOST_DOTS:
        raise error(f"{path} has a line with more than {MOST_DOTS} dots", fix)
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
    """The limit that lists and dictionaries exceed, as the end of a sentence; "" if they are within all limits.

    A value that is referenced several times counts each time, because a message or a copy repeats it.
    """
    pending, count = [(data, 1)], 0
    while pending:
        value, depth = pending.pop()
        parts = _parts(value)
        count += 1 + len(parts)
        if count > MOST_VALUES:
            return f"has more than {MOST_VALUES} values"
        if depth > MOST_LEVELS:
            return f"is nested more than {MOST_LEVELS} levels deep"
        if isinstance(value, int) and value.bit_length() > 64:
            return "has a whole number of more than 64 bits"
        if isinstance(value, str) and len(value) > MOST_LETTERS:
            return f"has a text of more than {MOST_LETTERS} letters"
        pending += [(part, depth + 1) for part in parts]
    return ""


def _parts(value: object) -> list[object]:
    """The values inside a list or a dictionary, keys included."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple) else []
