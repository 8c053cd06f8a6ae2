"""Messages for invalid records: msgspec's message with the field, its value, and the expected values."""

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
_WORDS = {"object": "table", "array": "list"}  # msgspec's words, and the words of TOML and Python
_NESTED = StructType | DictType | ListType | TupleType | VarTupleType
Step = str | int  # a field or key, or an index


def problem(text: str, data: object, kind: type, fails: Callable[[object], bool]) -> str:
    """The message for `data` that does not fit the type `kind`: the field, its value, and the expected value.

    `text` is msgspec's message. `fails` says whether other data get the same message.
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
    actual = f"{place or 'the content'} is {shown(_value(data, steps))}"
    if message.startswith("Invalid enum") and isinstance(node, LiteralType):
        return f"{actual}, expected one of {', '.join(map(str, node.values))}"
    if message.startswith("Expected "):
        return f"{actual}, expected {_plain_type(message)}"
    return f"{place}: {message}" if place else message


def _steps(path: str, data: object, fails: Callable[[object], bool]) -> list[Step]:
    """The fields, indices and keys of a path. msgspec does not name keys of a table, so they are searched for."""
    steps: list[Step] = []
    for name, index in _STEP.findall(path):
        if index == "...":
            steps.append(_wrong_key(data, steps, fails))
        else:
            steps.append(int(index) if index else name)
    return steps


def _wrong_key(data: object, steps: Sequence[Step], fails: Callable[[object], bool]) -> str:
    """The first key whose value does not fit, in the table that `steps` lead to. It is found by bisection."""
    table = _value(data, steps)
    entries = list(table.items()) if isinstance(table, dict) else []
    count = bisect_left(
        range(len(entries)), True, key=lambda last: fails(_replaced(data, steps, dict(entries[: last + 1])))
    )
    return str(entries[count][0]) if count < len(entries) else "..."


def _replaced(data: object, steps: Sequence[Step], value: object) -> object:
    """A copy of the data with another value at the place that `steps` lead to."""
    if not steps:
        return value
    inner = _replaced(_value(data, steps[:1]), steps[1:], value)
    if isinstance(data, dict):
        return {**data, steps[0]: inner}
    return [inner if i == steps[0] else part for i, part in enumerate(data)] if isinstance(data, list) else data


def _value(data: object, steps: Sequence[Step]) -> object:
    """The value that `steps` lead to, or None."""
    for step in steps:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list | tuple) and isinstance(step, int) and step < len(data):
            data = data[step]
    return data


def _node(node: Type, steps: Sequence[Step]) -> Type:
    """The type of the value that `steps` lead to."""
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
    """The members of a union, or the type itself, without descriptions."""
    while isinstance(node, Metadata):
        node = node.type
    return node.types if isinstance(node, UnionType) else (node,)


def _name(steps: Sequence[Step]) -> str:
    """The name of a place for users: `input.size[0]`, or `processors['AMD EPYC'].threads`."""
    return "".join(map(_part, steps)).removeprefix(".")


def _part(step: Step) -> str:
    return f".{step}" if isinstance(step, str) and _PLAIN.fullmatch(step) else f"[{shown(step)}]"


def _quoted(message: str) -> str:
    return message[message.find("`") + 1 : message.rfind("`")]


def _plain_type(message: str) -> str:
    """The type that msgspec expects, in the words of TOML: "list of length 2"."""
    text = message.removeprefix("Expected ").partition(", got ")[0].replace("`", "")
    return " ".join(_WORDS.get(word, word) for word in text.split(" "))
