"""Errors of records: msgspec's messages with the place, the value that is there, and the values that are expected."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

from msgspec.inspect import (
    DictType,
    ListType,
    LiteralType,
    Metadata,
    StructType,
    TupleType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from sandglass.core.errors import shown

_AT = re.compile(r"(.*?)(?: - at `(?:key` in `)?(\$[^`]*)`)?", re.DOTALL)  # msgspec's message and path
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")  # a field, an index, or any key of a table
_PLAIN = re.compile(r"[\w-]{1,60}")  # a key that needs no quotes
_WORDS = {"object": "table", "array": "list"}  # msgspec's words for what TOML calls otherwise
_NESTED = StructType | DictType | ListType | TupleType | VarTupleType
Step = str | int  # a field or key, or an index


def problem(text: str, data: object, kind: type, fails: Callable[[object], bool]) -> str:
    """What does not fit in `data`, with its place, what is there and what is expected.

    `text` is msgspec's message for the type `kind`; `fails` says whether other data get the same message.
    """
    match = _AT.fullmatch(text)
    message, path = (match[1], match[2] or "$") if match else (text, "$")
    steps = _steps(path, data, fails)
    place, node = _name(steps), _node(type_info(kind), steps)
    if message.startswith("Object missing"):
        return f"the field {_name([*steps, _quoted(message)])!r} is missing"
    if message.startswith("Object contains unknown") and isinstance(node, StructType):
        known = ", ".join(sorted(field.encode_name for field in node.fields))
        return f"unknown field {shown(_name([*steps, _quoted(message)]))}, expected {known}"
    there = f"{place or 'it'} is {shown(_value(data, steps))}"
    if message.startswith("Invalid enum") and isinstance(node, LiteralType):
        return f"{there}, expected one of {', '.join(map(str, node.values))}"
    if message.startswith("Expected "):
        return f"{there}, expected {_plain_type(message)}"
    return f"{place}: {message}" if place else message


def _steps(path: str, data: object, fails: Callable[[object], bool]) -> list[Step]:
    """The fields, indices and keys that lead to a place. msgspec does not say which key of a table: it is found."""
    steps: list[Step] = []
    for name, index in _STEP.findall(path):
        if index == "...":
            steps.append(_culprit(data, steps, fails))
        else:
            steps.append(int(index) if index else name)
    return steps


def _culprit(data: object, steps: Sequence[Step], fails: Callable[[object], bool]) -> str:
    """The first key of the table at a place whose value does not fit, by bisection."""
    table = _value(data, steps)
    entries = list(table.items()) if isinstance(table, dict) else []
    count = bisect_left(
        range(len(entries)), True, key=lambda last: fails(_replaced(data, steps, dict(entries[: last + 1])))
    )
    return str(entries[count][0]) if count < len(entries) else "..."


def _replaced(data: object, steps: Sequence[Step], value: object) -> object:
    """The data with another value at a place."""
    if not steps:
        return value
    inner = _replaced(_value(data, steps[:1]), steps[1:], value)
    if isinstance(data, dict):
        return {**data, steps[0]: inner}
    return [inner if i == steps[0] else part for i, part in enumerate(data)] if isinstance(data, list) else data


def _value(data: object, steps: Sequence[Step]) -> object:
    """What is at a place; None where there is nothing."""
    for step in steps:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list | tuple) and isinstance(step, int) and step < len(data):
            data = data[step]
    return data


def _node(node: Type, steps: Sequence[Step]) -> Type:
    """The type at a place."""
    for step in steps:
        node = next((inner for inner in _alternatives(node) if isinstance(inner, _NESTED)), node)
        if isinstance(node, StructType):
            node = next((field.type for field in node.fields if field.encode_name == step), node)
        elif isinstance(node, DictType):
            node = node.value_type
        elif isinstance(node, TupleType) and isinstance(step, int):
            node = node.item_types[step]
        elif isinstance(node, ListType | VarTupleType):
            node = node.item_type
    return next((inner for inner in _alternatives(node) if isinstance(inner, StructType | LiteralType)), node)


def _alternatives(node: Type) -> Sequence[Type]:
    """A type, or those of a union, without their descriptions."""
    while isinstance(node, Metadata):
        node = node.type
    return node.types if isinstance(node, UnionType) else (node,)


def _name(steps: Sequence[Step]) -> str:
    """A place as a user finds it: `input.size[0]`, or `processors['AMD EPYC'].threads`."""
    return "".join(map(_part, steps)).removeprefix(".")


def _part(step: Step) -> str:
    return f".{step}" if isinstance(step, str) and _PLAIN.fullmatch(step) else f"[{shown(step)}]"


def _quoted(message: str) -> str:
    return message[message.find("`") + 1 : message.rfind("`")]


def _plain_type(message: str) -> str:
    """What msgspec expects, in the words of a file: "list of length 2"."""
    text = message.removeprefix("Expected ").partition(", got ")[0].replace("`", "")
    return " ".join(_WORDS.get(word, word) for word in text.split(" "))
