"""Parsers of option values. Each parser raises ValueError that says which value it expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from cyclopts import Parameter, Token

from sandglass.core import discover
from sandglass.core.processor import find_processor

Value = TypeVar("Value")
Size = tuple[int, int]
Box = tuple[float, ...]

if TYPE_CHECKING:
    DatasetName = str
else:  # help and completion show these names without reading entry points; `dataset` also accepts plugins
    DatasetName = Literal[tuple(discover.own_names("datasets"))]
LONGEST_NUMBER = 18  # digits of a count; a longer number is a mistake and may not fit into 64 bits


def count(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if not text.isdecimal() or len(text) > LONGEST_NUMBER or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def whole(text: str) -> int:
    """Parse a whole number, which may be negative."""
    if not re.fullmatch(rf"-?\d{{1,{LONGEST_NUMBER}}}", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = _number(text)
    if value is None or not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a number above 0")
    return value


def points(text: str) -> float:
    """Parse a number of points (hundredths) of a metric, 0 to 100."""
    return _between(text, 0.0, 100.0)


def share(text: str) -> float:
    """Parse a share, 0 to 1."""
    return _between(text, 0.0, 1.0)


def _between(text: str, low: float, high: float) -> float:
    value = _number(text)
    if value is None or not low <= value <= high:
        raise ValueError(f"{text!r} is not a number from {low:g} to {high:g}")
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def sizes(text: str) -> list[Size]:
    """Parse `HEIGHTxWIDTH,HEIGHTxWIDTH,...` in pixels."""
    parts = text.split(",")
    for part in parts:
        if not re.fullmatch(r"\d+x\d+", part):
            raise ValueError(f"{part!r} is not HEIGHTxWIDTH, such as 512x768")
    return [(int(height), int(width)) for height, width in (part.split("x") for part in parts)]


def box(text: str) -> Box:
    """Parse `X,Y,W,H` in pixels: the upper left corner, the width and the height."""
    numbers = tuple(_number(part) for part in text.split(","))
    values = tuple(number for number in numbers if number is not None)
    if len(values) != len(numbers) or len(values) != 4 or min(values[2:]) <= 0:
        raise ValueError(f"{text!r} is not X,Y,W,H with a width and a height above 0")
    return values


def file_or_stdout(text: str) -> Path:
    """Parse the path of a file; `-` is standard output."""
    if text.startswith("-") and text != "-":
        raise ValueError(f"expected a FILE, but {text!r} looks like an option; write ./{text} for a file of this name")
    return Path(text)


def dataset(text: str) -> str:
    """The name of a dataset, also of one that another package adds."""
    if not discover.has("datasets", text):
        raise ValueError(f"there is no dataset {text!r}; known: {', '.join(discover.names('datasets'))}")
    return text


def one(read: Callable[[str], Value], metavar: str) -> Parameter:
    """An option with a single value, which `read` parses."""

    def convert(_: object, tokens: Sequence[Token]) -> Value:
        return read(tokens[0].value)

    return Parameter(converter=convert, n_tokens=1, metavar=metavar, accepts_keys=False)


def each(read: Callable[[str], Value], metavar: str) -> Parameter:
    """An option that may be repeated. Its value is a tuple of all parsed values in the order of the command line."""

    def convert(_: object, tokens: Sequence[Token]) -> tuple[Value, ...]:
        return tuple(read(token.value) for token in tokens)

    return Parameter(converter=convert, n_tokens=1, metavar=metavar, allow_repeating=True)


COUNT, WHOLE = one(count, "N"), one(whole, "N")
SECONDS, MINUTES = one(positive, "SECONDS"), one(positive, "MINUTES")
POINTS, SHARE = one(points, "POINTS"), one(share, "SHARE")
PROCESSOR = one(find_processor, "KIND")
DATASET = one(dataset, "NAME")
FILE_OR_STDOUT = Parameter.combine(one(file_or_stdout, "FILE"), Parameter(allow_leading_hyphen=True))
FILE, FOLDER = Parameter(metavar="FILE"), Parameter(metavar="DIR")
