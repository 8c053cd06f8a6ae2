"""Only regular files of limited size are read, and a message is one line whatever a file holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandglass.core.errors import CardError, InputError, SandglassError, shown
from sandglass.core.files import read_json, sha256
from sandglass.core.reading import open_file, read_bytes, read_text
from sandglass.core.toml_files import excess
from sandglass.datasets import cifar10, coco_keypoints, ctw1500, icdar2015, imagenet
from sandglass.formats import ncnn_param, ncnn_table
from sandglass.formats.npz import read_npz
from sandglass.graph.io import load_graph
from sandglass.quantization.plan import Plan
from sandglass.sources.card import Card
from sandglass.sources.checkpoint import read_checkpoint
from sandglass.sources.load_card import load_card
from sandglass.table.file import read_table
from sandglass.vision.image import image_size, read_image

READERS: dict[str, Callable[[Path], Any]] = {
    ".pth": read_checkpoint,
    ".safetensors": read_checkpoint,
    ".batch": cifar10.read_batch,
    ".py": load_card,
    ".toml": load_card,
    ".table.toml": read_table,
    ".json": Plan.load,
    ".onnx": load_graph,
    ".png": read_image,
    ".jpg": image_size,
    ".param": ncnn_param.read_param,
    ".table": ncnn_table.read_table,
    ".txt": icdar2015.parse,
    ".xml": ctw1500.parse,
    ".labels": lambda path: imagenet.load(path.parent, path),
    ".coco": lambda path: coco_keypoints.load(path.parent, path),
    ".hash": sha256,
}


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a loop of links"])
@pytest.mark.parametrize("suffix", READERS)
def test_a_reader_never_waits(suffix: str, kind: str, tmp_path: Path) -> None:
    """A pipe, a device that never ends, a folder and a link to itself are refused by what they are."""
    path = tmp_path / f"a{suffix}"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    message = "Too many levels" if kind == "a loop of links" else f"it is {kind}"
    with pytest.raises(SandglassError, match=message):
        READERS[suffix](path)


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 5000])
def test_names_that_no_file_has(suffix: str, name: str, tmp_path: Path) -> None:
    """A NUL, half a surrogate pair and a name of thousands of letters are one line."""
    with pytest.raises(SandglassError, match="cannot read") as caught:
        READERS[suffix](tmp_path / f"{name}{suffix}")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 2100


def test_size_is_limited_before_reading(tmp_path: Path) -> None:
    """Also of a file whose size is not known beforehand."""
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", InputError, most=5) == b"12345"
    with pytest.raises(InputError, match="has 5 bytes, but the limit is 4"):
        read_bytes(tmp_path / "a", InputError, most=4)
    with pytest.raises(InputError, match="the limit is 4"):
        read_bytes(Path("/proc/self/status"), InputError, most=4)


def test_text(tmp_path: Path) -> None:
    """A byte-order mark is dropped; other bytes than UTF-8 are told."""
    (tmp_path / "a").write_bytes("\ufeffä".encode())
    assert read_text(tmp_path / "a", InputError) == "ä"
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_text(tmp_path / "a", InputError)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(InputError, match=r"cannot read plan .*none: No such file"):
        open_file(tmp_path / "none", InputError, "plan")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * 800 + "]" * 800, "nested too deeply"),
        ('{"a":[' * 40 + "]}" * 40, "nested too deeply"),
        ('{"a": 1' + "0" * 400 + "}", "more than 64 bits"),
        ('{"a": -36893488147419103232}', "more than 64 bits"),
        ('{"a": 1', "is not JSON"),
    ],
)
def test_json(text: str, message: str, tmp_path: Path) -> None:
    """Depth, numbers that no other format holds, and half a file."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json", InputError)


CARD = (
    'name = "m"\ntask = "topdown-pose"\ngraph = "a.onnx"\n[input]\nsize = [8, 8]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"m"', "[" * 100_000, "nested too deeply"),
        ('"m"', "{a=" * 300 + "1" + "}" * 300, "nested"),
        ('name = "m"', ".".join("a" * 5000) + " = 1", "a line with more than 100 dots"),
        ('name = "m"', ".".join("a" * 90) + " = 1", "nested more than 50 levels"),
        ("[8, 8]", f"[{'9' * 400}, 8]", "more than 64 bits"),
        ("[8, 8]", f"[0x{'f' * 5000}, 8]", "more than 64 bits"),
        ("[8, 8]", "[100000, 100000]", "expected at most"),
        ("[0, 0, 0]", "[nan, 0, 0]", "mean is .*, expected 3 numbers"),
        ("[1, 1, 1]", "[inf, 1, 1]", "std is .*, expected 3 positive numbers"),
        ('"m"', '"../../x"', "without slashes"),
        ('"m"', '"a\\u0000"', "without slashes"),
        ('"m"', "[" + "1," * 90_000 + "]", "expected str"),
        ('"m"', "[" + "1," * 140_000 + "]", "the limit is"),
    ],
)
def test_toml(old: str, new: str, message: str, tmp_path: Path) -> None:
    """Depth, long keys, vast numbers and tables of a card; the message stays short."""
    (tmp_path / "a.toml").write_text(CARD.replace(old, new))
    with pytest.raises(CardError, match=message) as caught:
        load_card(tmp_path / "a.toml")
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("data", [3, [], {"name": 3}, {"name": "m", "arguments": {"a": 10**400}}])
def test_a_card_from_other_data(data: Any) -> None:
    """A manifest may hold anything in its place."""
    with pytest.raises(CardError):
        Card.from_dict(data, "a manifest")


def test_values_that_refer_to_one_another_are_counted() -> None:
    """A few lists can stand for billions of values, or for endless ones."""
    value: list[Any] = [0] * 1000
    for _ in range(10):
        value = [value] * 10
    assert "more than 200000 values" in excess(value)
    loop: list[Any] = []
    loop.append(loop)
    assert "nested more than 50 levels" in excess(loop)
    assert excess({"a": [1, "b", {"c": None}]}) == ""


def test_a_message_is_one_short_line() -> None:
    """What a file says does not move the cursor, and a vast value is shown by its beginning."""
    error = SandglassError("a\nb\x1b[31m\u202e\ud800" + "x" * 10_000)
    assert error.message.startswith("a\\nb\\x1b[31m\\u202e\\ud800xxx")
    assert len(error.message) < 2100
    loop: list[Any] = []
    loop.append(loop)
    for value in ([[0] * 1000] * 1000, "x" * 10**6, loop, {i: i for i in range(1000)}):
        assert len(shown(value)) < 500


def test_npz_is_not_unpacked_beyond_what_is_expected(tmp_path: Path) -> None:
    """A small archive of zeros, and one of objects."""
    import io

    import numpy as np

    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.zeros(1 << 22, np.uint8))
    assert len(stream.getvalue()) < 1 << 14
    with pytest.raises(ValueError, match="over 1 MiB"):
        read_npz(stream, most=1 << 20)
    assert read_npz(stream)["a"].shape == (1 << 22,)
    np.savez(stream := io.BytesIO(), a=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_npz(stream)


def test_levels_that_files_have_are_read(tmp_path: Path) -> None:
    """A list of a dictionary of a list, and values that are neither."""
    for text in ("3", "[]", '{"a": [{"b": [1, {}]}]}', "[" * 60 + "]" * 60):
        (tmp_path / "a.json").write_text(text)
        assert read_json(tmp_path / "a.json", InputError) == json.loads(text)
