"""Model cards parse, or say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandglass.core.errors import CardError
from sandglass.sources.card import Card, zoo
from sandglass.sources.load_card import load_card

GOOD = """
name = "mine"
task = "topdown-pose"
graph = "mine.onnx"
[input]
size = [256, 192]
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_graph_is_found_beside_the_card(tmp_path: Path) -> None:
    """Paths in a card are relative to it."""
    card = load_card(write(tmp_path, GOOD))
    assert card.graph == tmp_path / "mine.onnx"
    assert card.input.size == (256, 192)


@pytest.mark.parametrize("name", zoo())
def test_every_zoo_card_parses_and_survives_its_dictionary(name: str) -> None:
    """A card turned into data and back is the same card."""
    card = load_card(name)
    assert card.name == name
    assert Card.from_dict(card.to_dict(), "data") == card


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "mine"', "", "'name' is missing"),
        ('task = "topdown-pose"', 'task = "juggling"', "unknown task 'juggling', known: .*topdown-pose"),
        ('graph = "mine.onnx"', "", "exactly one of `model`"),
        ('graph = "mine.onnx"', 'graph = "a"\nmodel = "hourglass"', "exactly one of `model`"),
        ('graph = "mine.onnx"', 'model = "octopus"', "unknown model 'octopus'"),
        ("[256, 192]", "[256]", r"input.size is \[256\], expected list of length 2"),
        ("[256, 192]", "[256, 0]", r"input.size\[1\] is 0, expected int >= 1"),
        ("[256, 192]", "[256.5, 192]", r"input.size\[0\] is 256.5, expected int"),
        ("[58.395, 57.12, 57.375]", "[0, 1, 1]", "std is .*, expected 3 positive numbers"),
        ("size", "sise", "unknown field 'input.sise', expected channels, mean, size, std"),
        ("[input]", "[input]\nchannels = 'hsv'", "input.channels is 'hsv', expected one of bgr, rgb"),
        ('name = "mine"', "name = [", "is not a TOML file"),
        ("[input]", "[decode]\npaddin = 1.5\n[input]", r"unknown field 'paddin' in \[decode\], expected .*padding"),
        ("[input]", "[decode]\npadding = 'wide'\n[input]", "decode.padding is 'wide', expected a number"),
        ("[input]", "[decode]\nmethod = 'light'\n[input]", "'light', expected one of quarter, dark, udp"),
        ("[input]", "[decode]\nblur = 12\n[input]", "blur is 12, expected one of 11, 17"),
    ],
)
def test_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A wrong field is reported with its value and what was expected."""
    with pytest.raises(CardError, match=message):
        load_card(write(tmp_path, GOOD.replace(old, new, 1)))


def test_unknown_model_lists_the_zoo() -> None:
    """A name that is no zoo model and no card gets the names that are."""
    with pytest.raises(CardError) as caught:
        load_card("hourglass53")
    assert "hourglass52-coco-256x256" in caught.value.fix


def test_missing_card_is_named(tmp_path: Path) -> None:
    """A path that does not exist is reported."""
    with pytest.raises(CardError, match="cannot read model card"):
        load_card(tmp_path / "none.toml")
