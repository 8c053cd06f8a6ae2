"""The types of values that JSON and TOML files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TypeAlias

    JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
else:
    JsonValue = Any  # records are converted by msgspec, which knows no alias that refers to itself

JsonObject = dict[str, JsonValue]
# An object with typed dictionaries in it, whose values are JSON values too, but not by their type.
JsonRecord = dict[str, object]
