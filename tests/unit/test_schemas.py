"""The schemas in the package are those of the records."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sandglass.cli.schemas import SHIPPED, schema_texts, write_schemas
from sandglass.sources.card import zoo


def test_shipped_schemas_are_those_of_the_records() -> None:
    """After a change of a record `make schemas` writes them again."""
    assert {path.name: path.read_text(encoding="utf-8") for path in SHIPPED.iterdir()} == schema_texts()


def test_schemas_are_written_for_an_editor(tmp_path: Path) -> None:
    """Into any folder, which is made where it does not exist."""
    paths = write_schemas(tmp_path / "schemas")
    assert {path.name for path in paths} >= {"card.schema.json", "table.schema.json"}
    assert all(path.parent == tmp_path / "schemas" and path.is_file() for path in paths)


@pytest.mark.parametrize("name", ["hourglass-tiny-synthetic", "hrnet-w32-coco-256x192-udp"])
def test_card_of_the_zoo_has_only_fields_of_the_schema(name: str) -> None:
    """And all that the schema asks for."""
    schema: Any = json.loads((SHIPPED / "card.schema.json").read_text(encoding="utf-8"))
    data = tomllib.loads(zoo()[name].read_text(encoding="utf-8"))
    for title, part in (("Card", data), ("Input", data["input"])):
        fields = schema["$defs"][title]
        assert set(fields["required"]) <= set(part) <= set(fields["properties"])
        assert fields["additionalProperties"] is False
