"""Programs of opcodes, expressions and documents that hypothesis makes up: each is read or refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandglass.core.errors import SandglassError

from . import seeds
from .readers import Reader, readers

NAMES = st.sampled_from(
    ["torch._utils _rebuild_tensor_v2", "torch FloatStorage", "torch._utils _rebuild_parameter", "torch Size",
     "collections OrderedDict", "numpy dtype", "numpy.core.multiarray _reconstruct", "numpy ndarray", "_codecs encode",
     "some.where Else"]
)  # fmt: skip
WORDS = st.sampled_from(["state_dict", "model", "a", "0", "storage", "cpu", "u1", "b", "ema_a"])
OPCODE = st.one_of(
    st.sampled_from([bytes([code]) for code in b"()t]}R\x81baeus1202Q\x85\x86\x87N\x88\x89o\x94"]),
    NAMES.map(lambda name: seeds.name(*name.split(" "))),
    WORDS.map(seeds.text),
    st.integers(-2, 5).map(seeds.number),
    st.integers(0, 3).map(lambda place: b"q" + bytes([place])),
    st.integers(0, 3).map(lambda place: b"h" + bytes([place])),
    st.builds(seeds.tensor, st.just(seeds.storage()), st.integers(0, 5), st.just((2,)), st.tuples(st.integers(0, 3))),
)
PROGRAMS = st.lists(OPCODE, max_size=40).map(lambda parts: seeds.pickled(b"".join(parts)))

LEAVES = st.sampled_from(["a", "1", "-2.5", "'x'", "None", "True", "[1, 2]", "dict(a=1)", "10 ** 9", "_base_", "{}"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "*", "**", "<<", "/", "%"]), inner),
        st.builds("[*{}, {}]".format, inner, inner),
        st.builds("dict(x={}, **{})".format, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("{}.x".format, inner),
        st.builds("float({})".format, inner),
        st.builds("f'{{{}}}'".format, LEAVES.filter(lambda leaf: "'" not in leaf and "{" not in leaf)),
    ),
    max_leaves=12,
)
LINES = st.builds(
    "{} {} {}".format, st.sampled_from(["a", "a['x']", "a.x", "model"]), st.sampled_from(["=", "+=", "*="]), EXPRESSIONS
)
CONFIGS = st.lists(LINES, max_size=8).map(lambda lines: "\n".join(["a = dict(x=[1])", *lines]).encode())

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """The readers by name."""
    return {reader.name: reader for reader in readers(tmp_path_factory.mktemp("seeds"))}


def read(reader: Reader, data: bytes) -> None:
    """Read an input; any other error than ours is the test's."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / reader.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with contextlib.suppress(SandglassError):
            reader.read(path)


@given(program=PROGRAMS)
@settings(deadline=None, max_examples=200)
def test_programs_of_opcodes(program: bytes, known: dict[str, Reader]) -> None:
    """In a checkpoint of either format, and as a batch."""
    read(known["checkpoint"], seeds.torch_zip(program))
    read(known["checkpoint"], seeds.torch_legacy(program))
    read(known["cifar10"], program)


@given(config=CONFIGS)
@settings(deadline=None, max_examples=200)
def test_configs(config: bytes, known: dict[str, Reader]) -> None:
    """Assignments of expressions within expressions."""
    read(known["config"], config)


@given(document=DOCUMENTS, data=st.data())
@settings(deadline=None, max_examples=200)
def test_documents(document: Any, data: st.DataObject, known: dict[str, Reader]) -> None:
    """Any value at any place of a document of JSON."""
    reader = known[data.draw(st.sampled_from(["plan", "tuning", "annotations", "detections", "kit", "kit-report"]))]
    whole = json.loads(reader.seeds[0])
    place = whole
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(place[key], dict | list) or not place[key]:
            place[key] = document
            break
        place = place[key]
    read(reader, json.dumps(whole).encode())
