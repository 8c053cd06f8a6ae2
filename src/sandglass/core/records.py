"""Records: what a file of Sandglass holds, as a frozen class whose fields have types.

A file is read into its record, or refused with one line that names the file, the field, what is there, and what is
expected. A field that a record does not have is refused too. A field of type `Path` is written as text, relative to
the folder of its file. `json_schema` describes a record for editors.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from sandglass.core.errors import InputError, shown
from sandglass.core.files import read_json
from sandglass.core.json_values import JsonObject, JsonValue
from sandglass.core.record_problems import problem
from sandglass.core.toml_files import read_toml


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all records. A subclass checks what types cannot say in `__post_init__`, with a ValueError."""


R = TypeVar("R", bound=Record)


def read_toml_record(path: Path, kind: type[R], what: str, error: type[InputError], fix: str) -> R:
    """The record of a TOML file; raises `error` with `fix` for anything else, and says `what` the file is."""
    return to_record(read_toml(path, what, error, fix), kind, str(path), error, fix, path.parent)


def read_json_record(path: Path, kind: type[R], error: type[InputError], fix: str, format: int | None = None) -> R:
    """The record of a JSON file; raises `error` with `fix` for anything else.

    Where `format` is given, a file that has another one in its field `format` is refused by that before anything else:
    its other fields may be unknown here.
    """
    data = read_json(path, error) if format is None else read_format(path, format, error, fix)
    return to_record(data, kind, str(path), error, fix, path.parent)


def read_format(path: Path, format: int, error: type[InputError], fix: str) -> JsonObject:
    """The fields of a JSON file whose field `format` has to have this value; raises `error` with `fix` otherwise."""
    data = read_json(path, error)
    if not isinstance(data, dict):
        raise error(f"{path}: it is {shown(data)}, expected a table of fields", fix)
    written = data.get("format")
    if type(written) is not int or written != format:
        raise error(f"{path}: format is {shown(written)}, expected {format}", fix)
    return data


def to_record(
    data: object, kind: type[R], where: str, error: type[InputError], fix: str, folder: Path | None = None
) -> R:
    """Convert the content of a file named `where` in `folder`; raises `error` with `fix` where it does not fit."""
    try:
        return _convert(data, kind, folder)
    except msgspec.ValidationError as cause:
        text = problem(str(cause), data, kind, partial(_fails_alike, str(cause), kind))
        raise error(f"{where}: {text}", fix) from cause
    except UnicodeEncodeError as cause:  # JSON can write one, and msgspec compares names in UTF-8
        raise error(f"{where}: a text in it has half a surrogate pair", fix) from cause


def to_data(record: Record) -> JsonObject:
    """A record as JSON-able data, a path as the name of its file."""
    data: JsonObject = msgspec.to_builtins(record, enc_hook=_plain)
    return data


def json_schema(kind: type[Record]) -> JsonObject:
    """The JSON schema of a record, for editors that check and complete a file while it is written."""
    schema: JsonObject = msgspec.json.schema(kind, schema_hook=lambda _: {"type": "string"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _convert(data: object, kind: type[R], folder: Path | None = None) -> R:
    return msgspec.convert(data, kind, dec_hook=partial(_path, folder or Path()))


def _path(folder: Path, kind: type, value: object) -> Path:
    """msgspec asks for the value of a type that it does not know: a path."""
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    return folder / value


def _plain(value: object) -> JsonValue:
    """msgspec asks for the data of a value that it does not know: a path, or a NumPy float."""
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Path):
        return value.name
    raise NotImplementedError(type(value).__name__)


def _fails_alike(text: str, kind: type[Record], data: object) -> bool:
    """Whether other data are refused for the same reason."""
    try:
        _convert(data, kind)
    except msgspec.ValidationError as error:
        return str(error) == text
    return False
