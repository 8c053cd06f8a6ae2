"""TOML files that people write: read once, with errors that name the file, the key and the value."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sandglass.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, what: str, error: type[InputError], fix: str) -> dict[str, Any]:
    """The content of a TOML file; raises `error`, which says `what` it is, where it is missing or none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise error(f"cannot read {what} {path}: {cause.strerror}", "check the path") from cause
    except ValueError as cause:
        raise error(f"{path} is not a TOML file: {cause}", fix) from cause


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
            raise self.fail(f"{key} is {value!r}, expected {names}")
        return value

    def only(self, table: Mapping[str, Any], allowed: Collection[str], name: str) -> None:
        """Refuse a field of a table that is not known."""
        if unknown := sorted(set(table) - set(allowed)):
            raise self.fail(f"unknown field {unknown[0]!r} in {name}, expected {', '.join(sorted(allowed))}")
