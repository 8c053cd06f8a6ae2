"""Records: what does not fit is named by file, field, value and what is expected, in one short line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, field

from sandglass.core.errors import InputError
from sandglass.core.records import Record, json_schema, read_json_record, read_toml_record, to_data, to_record


class Wheel(Record, frozen=True):
    """A wheel."""

    spokes: Annotated[int, Meta(ge=3)]
    colour: Literal["red", "blue"] = "red"

    def __post_init__(self) -> None:
        """No wheel has 13 spokes."""
        if self.spokes == 13:
            raise ValueError("spokes is 13, expected another number")


class Cart(Record, frozen=True):
    """A cart."""

    name: str
    wheels: Annotated[list[Wheel], Meta(min_length=1)]
    spare: dict[str, Wheel] = field(default_factory=dict)
    picture: Path | None = None
    sizes: tuple[int | float, int] = (1, 2)
    more: dict[str, dict[str, list[Wheel]]] = field(default_factory=dict)


GOOD: dict[str, Any] = {"name": "c", "wheels": [{"spokes": 4}]}


def refused(data: object) -> str:
    with pytest.raises(InputError) as caught:
        to_record(data, Cart, "cart.json", InputError, "ask a smith")
    assert caught.value.fix == "ask a smith"
    assert len(caught.value.message) < 600
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix("cart.json: ")


def test_file_is_read_into_its_record(tmp_path: Path) -> None:
    """TOML and JSON; a path is relative to the file, whole numbers stay whole, and defaults are filled in."""
    (tmp_path / "c.toml").write_text('name = "c"\npicture = "c.png"\nsizes = [3, 4]\n[[wheels]]\nspokes = 4\n')
    cart = read_toml_record(tmp_path / "c.toml", Cart, "cart", InputError, "")
    assert cart == Cart("c", [Wheel(4)], picture=tmp_path / "c.png", sizes=(3, 4))
    (tmp_path / "c.json").write_text(json.dumps({**to_data(cart), "picture": "c.png"}))
    assert read_json_record(tmp_path / "c.json", Cart, InputError, "") == cart
    assert type(cart.sizes[0]) is int
    assert to_data(cart)["picture"] == "c.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nome": 1}, "unknown field 'nome', expected more, name, picture, sizes, spare, wheels"),
        ({"name": 3}, "name is 3, expected str"),
        ({"wheels": {}}, "wheels is {}, expected list"),
        ({"wheels": []}, "wheels is [], expected list of length >= 1"),
        ({"wheels": [{"spokes": 4}, {"spokes": 2}]}, "wheels[1].spokes is 2, expected int >= 3"),
        ({"wheels": [{"spokes": True}]}, "wheels[0].spokes is True, expected int"),
        ({"wheels": [{"spokes": 13}]}, "wheels[0]: spokes is 13, expected another number"),
        ({"wheels": [{}]}, "the field 'wheels[0].spokes' is missing"),
        ({"wheels": [{"spokes": 3, "color": 1}]}, "unknown field 'wheels[0].color', expected colour, spokes"),
        ({"wheels": [{"spokes": 3, "colour": "rot"}]}, "wheels[0].colour is 'rot', expected one of blue, red"),
        ({"picture": 3}, "picture is 3, expected str"),
        ({"sizes": [1]}, "sizes is [1], expected list of length 2"),
        ({"sizes": [None, 1]}, "sizes[0] is None, expected int | float"),
        ({"name": "x" * 10**6, "sizes": "y" * 10**6}, f"sizes is '{'y' * 27}...{'y' * 28}', expected list"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    """The field with its path, the value that is there, and what is expected."""
    assert refused({**GOOD, **change}) == message


@pytest.mark.parametrize("data", [3, [], None, "cart", {}, {"name": "c"}])
def test_other_data_are_refused(data: object) -> None:
    """A file may hold anything."""
    assert "expected table" in refused(data) or "is missing" in refused(data)


def test_key_of_a_table_is_named() -> None:
    """Also when it is one of thousands, in tables of tables."""
    spare = {f"w{i}": {"spokes": 4} for i in range(5000)}
    assert refused({**GOOD, "spare": {**spare, "w3210": {"spokes": 1}}}) == "spare.w3210.spokes is 1, expected int >= 3"
    more = {"a": {}, "b": {"x": [{"spokes": 4}], "y": [{"spokes": 4}, {"spokes": "n"}], "z": []}}
    assert refused({**GOOD, "more": more}) == "more.b.y[1].spokes is 'n', expected int"
    assert refused({**GOOD, "spare": {"k" * 10**5: 3}}).endswith("is 3, expected table")


@pytest.mark.parametrize("name", ["a` - at `$.wheels", "$.wheels[0]", "`", "", "a\nb", "x" * 10**5])
def test_hostile_names_stay_one_short_line(name: str) -> None:
    """A field whose name looks like a part of a message."""
    assert "unknown field" in refused({**GOOD, name: 1})
    refused({**GOOD, "spare": {name: {name: 1}}})


def test_half_a_surrogate_pair_is_refused() -> None:
    """As the name of a field; as a value it is text."""
    assert refused({**GOOD, "\ud800": 1}) == "a text contains a lone surrogate, which is not valid Unicode"
    assert refused({**GOOD, "name": "\ud800", "wheels": 1}) == "wheels is 1, expected list"


def test_format_is_checked_before_the_fields(tmp_path: Path) -> None:
    """A file of another format is refused by that, whatever its fields are."""
    path = tmp_path / "c.json"
    for content in ({"format": 2, "new": 1}, {"format": True}, {"format": "1"}, {}):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"format is .*, expected 1"):
            read_json_record(path, Cart, InputError, "", 1)


def test_schema_names_the_fields() -> None:
    """The schema is JSON, refuses unknown fields, and has paths as text."""
    schema: Any = json.loads(json.dumps(json_schema(Cart)))
    cart = schema["$defs"]["Cart"]
    assert cart["additionalProperties"] is False
    assert cart["required"] == ["name", "wheels"]
    assert {"type": "string"} in cart["properties"]["picture"]["anyOf"]
