"""NumPy arrays in pickles, from the records of `pickles`: raw bytes with a numeric type and a shape."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np

from sandglass.formats.pickles import Call, PickleError, text

RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
DTYPE = "numpy.dtype"
ENCODE = "_codecs.encode"
# All names in the pickle of an array.
NAMES = frozenset({*RECONSTRUCT, "numpy.ndarray", DTYPE, ENCODE})
CODES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
MOST_SIDES = 32  # dimensions of an array; arrays of networks have far fewer


def is_array(value: object) -> TypeGuard[Call]:
    """Whether a record describes an array."""
    return isinstance(value, Call) and value.function in RECONSTRUCT


def array(value: Call) -> np.ndarray:
    """The array of a record. Raises PickleError for a shape that does not fit the bytes, and for a non-numeric type."""
    if not isinstance(value.state, list | tuple) or len(value.state) != 5:
        raise PickleError("an array has no state")
    _, shape, dtype, by_columns, raw = value.state
    kind, data = _dtype(dtype), _raw(raw)
    sides = whole_numbers(shape)
    if math.prod(sides) * kind.itemsize != len(data):
        raise PickleError(f"an array of shape {list(sides)} and type {kind} has {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(sides, order="F" if by_columns else "C")


def whole_numbers(values: object) -> tuple[int, ...]:
    """A shape or strides: at most MOST_SIDES whole numbers of 0 or more. Raises PickleError for other values."""
    if not isinstance(values, tuple | list) or len(values) > MOST_SIDES:
        raise PickleError("a shape is not a list of numbers")
    if not all(type(value) is int and value >= 0 for value in values):
        raise PickleError("a shape or a stride is not a whole number of 0 or more")
    return tuple(values)


def _dtype(value: object) -> np.dtype:
    if not isinstance(value, Call) or value.function != DTYPE or not value.arguments:
        raise PickleError("an array has an unknown type, expected numbers")
    code = text(value.arguments[0])
    if not isinstance(code, str) or code not in CODES:
        kind = f"the type {code}" if isinstance(code, str) else "an unknown type"
        raise PickleError(f"an array has {kind}, expected numbers")
    order = text(value.state[1]) if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
    return np.dtype(code).newbyteorder(">" if order == ">" else "<")


def _raw(value: object) -> bytes:
    """The bytes of an array. In pickles for Python 2, Python 3 writes them as a text in Latin-1."""
    if isinstance(value, Call) and value.function == ENCODE and value.arguments:
        letters = value.arguments[0]
        value = letters.encode("latin-1") if isinstance(letters, str) else letters
    if not isinstance(value, bytes | bytearray):
        raise PickleError("an array has no bytes")
    return bytes(value)
