"""Records: frozen classes with typed fields for the content of Sandglass's files.

A file is read into its record, or refused with one line that names the file, the field, its value, and the expected
value. An unknown field is refused too. A field of type `Path` is text in the file, relative to the folder of the file.
`json_schema` describes a record for editors.
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
    """Base of all records. A subclass checks in `__post_init__` what types cannot express, and raises ValueError."""


R = TypeVar("R", bound=Record)


def read_toml_record(path: Path, kind: type[R], what: str, error: type[InputError], fix: str) -> R:
    """Read a TOML file into a record. Raises `error` with `fix` for a file that does not fit.

    `what` names the kind of file in errors, for example "model card".
    """
    return to_record(read_toml(path, what, error, fix), kind, str(path), error, fix, path.parent)


def read_json_record(path: Path, kind: type[R], error: type[InputError], fix: str, format: int | None = None) -> R:
    """Read a JSON file into a record. Raises `error` with `fix` for a file that does not fit.

    If `format` is given, the field `format` of the file is checked first, because a file of another format may have
    other fields.
    """
    data = read_json(path, error) if format is None else read_format(path, format, error, fix)
    return to_record(data, kind, str(path), error, fix, path.parent)


def read_format(path: Path, format: int, error: type[InputError], fix: str) -> JsonObject:
    """The fields of a JSON file. Raises `error` with `fix` if its field `format` has another value than `format`."""
    data = read_json(path, error)
    if not isinstance(data, dict):
        raise error(f"{path}: the content is {shown(data)}, expected an object with fields", fix)
    written = data.get("format")
    if type(written) is not int or written != format:
        raise error(f"{path}: format is {shown(written)}, expected {format}", fix)
    return data


def to_record(
    data: object, kind: type[R], where: str, error: type[InputError], fix: str, folder: Path | None = None
) -> R:
    """Convert the content of a file to a record. Raises `error` with `fix` if it does not fit.

    `where` names the file in errors. Fields of type `Path` are relative to `folder`.
    """
    try:
        return _convert(data, kind, folder)
    except msgspec.ValidationError as cause:
        text = problem(str(cause), data, kind, partial(_fails_alike, str(cause), kind))
        raise error(f"{where}: {text}", fix) from cause
    except UnicodeEncodeError as cause:  # JSON can contain a lone surrogate, but msgspec compares names in UTF-8
        raise error(f"{where}: a text contains a lone surrogate, which is not valid Unicode", fix) from cause


def to_data(record: Record) -> JsonObject:
    """A record as JSON data. A path becomes the name of its file."""
    data: JsonObject = msgspec.to_builtins(record, enc_hook=_plain)
    return data


def json_schema(kind: type[Record]) -> JsonObject:
    """The JSON schema of a record, for editors that check and complete a file."""
    schema: JsonObject = msgspec.json.schema(kind, schema_hook=lambda _: {"type": "string"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _convert(data: object, kind: type[R], folder: Path | None = None) -> R:
    return msgspec.convert(data, kind, dec_hook=partial(_path, folder or Path()))


def _path(folder: Path, kind: type, value: object) -> Path:
    """Called by msgspec for a value of a type that it does not know: a path."""
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    return folder / value


def _plain(value: object) -> JsonValue:
    """Called by msgspec for a value that it cannot write: a path, or a NumPy float."""
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Path):
        return value.name
    raise NotImplementedError(type(value).__name__)


def _fails_alike(text: str, kind: type[Record], data: object) -> bool:
    """Whether `data` is refused with the message `text`."""
    try:
        _convert(data, kind)
    except msgspec.ValidationError as error:
        return str(error) == text
    return False
