"""Pickles as data: the same values as Python's own for plain ones, records for the rest, and limits."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.formats import pickles
from sandglass.formats.pickled_arrays import array, is_array
from sandglass.formats.pickles import Call, PickleError, read_pickle

KEYS = st.text(max_size=5) | st.integers(-(2**60), 2**60)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def read(data: bytes) -> Any:
    """The value of a pickle."""
    return read_pickle(io.BytesIO(data))


def plain(value: Any) -> Any:
    """A value of ours as pickle would give it: old protocols write bytes as a call."""
    if isinstance(value, Call) and value.function == "_codecs.encode":
        return value.arguments[0].encode("latin-1")
    if isinstance(value, Call) and value.function in ("__builtin__.bytes", "builtins.bytes"):
        return b""
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return {key: plain(part) for key, part in value.items()} if isinstance(value, dict) else value


@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_values_are_those_of_pickle(value: Any, protocol: int) -> None:
    """Numbers, texts, lists, tuples and dictionaries come out as pickle.loads gives them, in every protocol."""
    assert plain(read(pickle.dumps(value, protocol))) == value


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing but the errors of malformed files comes out."""
    with contextlib.suppress(ValueError, EOFError, struct.error, OverflowError):
        read(b"\x80\x02" + data)


class Made:
    """An instance with a state, which Python would make by importing this module."""

    def __init__(self) -> None:
        self.values = [1, 2]


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_a_pickle_would_call_is_recorded(protocol: int, tmp_path: Path) -> None:
    """Objects, functions and classes become records with arguments, state and elements; nothing runs."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    counted = collections.defaultdict(list, {"a": [1]})
    found = read(pickle.dumps([Made(), Evil(), counted, collections.deque([1, 2])], protocol))
    assert found[0].state == {"values": [1, 2]}
    assert (found[1].function, found[1].arguments) == ("posix.system", (f"touch {tmp_path / 'ran'}",))
    assert (found[2].function, found[2].entries) == ("collections.defaultdict", {"a": [1]})
    assert found[3].elements == [1, 2]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<f4", ">i2", "f8"])
def test_arrays(kind: str, order: Any) -> None:
    """NumPy's arrays in any protocol."""
    values = np.arange(12).reshape(3, 4).astype(kind, order=order)
    for protocol in (2, 3, 4):
        found = read(pickle.dumps(values, protocol))
        assert is_array(found)
        np.testing.assert_array_equal(array(found), values)


def nested(count: int) -> bytes:
    """A tuple in a tuple in a tuple."""
    return b")" + b"\x85" * count


def doubling(count: int) -> bytes:
    """A tuple that holds the one before it twice: 2 ** count values in a few bytes."""
    steps = b"".join(b"q" + bytes([i]) + b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(count))
    return b")" + steps


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"}" + nested(1000) + b"Ns", "a key is a nested tuple"),
        (b"}" + nested(900_000) + b"Ns", "more than 600000 opcodes"),
        (nested(900_000), "more than 600000 opcodes"),
        (b"}" + doubling(60) + b"Ns", "a key is a nested tuple"),
        (b"}]Ns", "a key is a list"),
        (b"}\x8a\x09" + b"\xff" * 8 + b"\x01" + b"Ns", "a key is a number of more than 64 bits"),
        (b"Nr\xff\xff\xff\x7fj\xff\xff\xff\x6f", "reads the value"),
        (b"\x82\x01", "EXT1"),
        (b"N\x97", "NEXT_BUFFER"),
        (b"0", "a value that does not exist"),
        (b"(0R", "a value that does not exist"),
        (b"\x8d" + struct.pack("<Q", 2**62), "expected 4611686018427387904 bytes"),
        (b"K\x01K\x02\x93", "without a name"),
        (b"U\x01xQ", "outside the pickle"),
    ],
)
def test_hostile_pickles_are_refused_at_once(body: bytes, message: str) -> None:
    """Depth, number, memo, doubling, lengths, extensions and a bare stack."""
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        read(b"\x80\x02" + body + b".")
    assert time.process_time() - start < 5


def test_memo_grows_by_what_is_stored_alone() -> None:
    """A place far away in the memo takes no more memory than a near one."""
    assert read(b"\x80\x02K\x07r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.") == 7


def test_nested_values_outside_of_keys_are_read() -> None:
    """A deep or doubling value that nobody looks into costs its opcodes."""
    read(b"\x80\x02" + nested(200_000) + b".")
    read(b"\x80\x02" + doubling(60) + b".")


def test_number_of_opcodes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is that of the module."""
    monkeypatch.setattr(pickles, "MOST_OPCODES", 10)
    assert read(b"\x80\x02" + b"N0" * 3 + b"N.") is None
    with pytest.raises(PickleError, match="more than 10 opcodes"):
        read(b"\x80\x02" + b"N0" * 5 + b"N.")
