"""The types of the values in JSON and TOML files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

    JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
else:
    JsonValue = Any  # msgspec, which converts records, does not support recursive aliases

JsonObject = dict[str, JsonValue]
# A JSON object that contains typed dictionaries. Their values are JSON values, but their type does not say so.
JsonRecord = dict[str, object]
