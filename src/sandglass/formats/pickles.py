"""Read pickles as data: calls in a pickle are recorded and never executed.

A pickle is a program for a small stack machine. Here, its opcodes work only on plain values: numbers, texts, lists,
tuples, dictionaries, records of names (`Global`), and records of calls (`Call`). No name is looked up and nothing is
imported. The reader of a file format uses the records that it knows and ignores the rest.

`pickletools` of the standard library decodes the opcodes. The memory is limited: each value needs an opcode, the number
of opcodes is limited, and no opcode copies a value.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

MOST_OPCODES = 600_000  # these take 1 to 3 s; a training's checkpoint with 2,000 tensors has 200,000
MOST_BITS = 64  # bits of a whole number as a key; larger numbers can be chosen to have equal hashes, which is slow


class PickleError(ValueError):
    """The bytes are not a pickle, or the pickle exceeds a limit."""


@dataclass(frozen=True)
class Global:
    """A name in a pickle, such as that of a class."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """A call in a pickle: the function and its arguments, and the state, elements and entries of the new object."""

    __slots__ = ("arguments", "elements", "entries", "function", "state")

    def __init__(self, function: object, arguments: object) -> None:
        self.function = str(function) if isinstance(function, Global) else ""
        self.arguments: tuple[object, ...] = arguments if isinstance(arguments, tuple) else ()
        self.state: object = None
        self.elements: list[object] | None = None
        self.entries: dict[str | float | Call | None, object] | None = None


def _no_persistent(identity: object) -> object:
    raise PickleError("it refers to an object outside the pickle")


def read_pickle(
    stream: IO[bytes],
    refuse: Callable[[Global], None] = lambda name: None,
    persistent: Callable[[object], object] = _no_persistent,
) -> object:
    """The value of the pickle at the stream's position, which then is after the pickle. Texts of Python 2 are bytes.

    `refuse` is called with each name in the pickle and may raise. `persistent` returns the value for an object outside
    the pickle, from its id. Raises PickleError for other bytes, for a pickle with more than MOST_OPCODES opcodes, and
    for nested keys of a dictionary.
    """
    start = stream.tell()
    _scan(stream)
    stream.seek(start)
    machine = _Machine(refuse, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            STEPS[opcode.name](machine, argument)
        return machine.pop()
    except IndexError:
        raise PickleError("it uses a value that does not exist") from None


def _scan(stream: IO[bytes]) -> None:
    """Check all opcodes before the first one is executed. Raises PickleError for an unknown one or too many."""
    for count, (opcode, _, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in STEPS:
            raise PickleError(f"it has the opcode {opcode.name}, which files of tensors do not need")
        if count >= MOST_OPCODES:
            raise PickleError(f"it has more than {MOST_OPCODES} opcodes")


def text(value: object) -> object:
    """A text of Python 2, which is bytes here, as text; other values unchanged."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class _Mark:
    """The start of a group of values on the stack."""


MARK = _Mark()


class _Machine:
    def __init__(self, refuse: Callable[[Global], None], persistent: Callable[[object], object]) -> None:
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.refuse, self.persistent = refuse, persistent

    def pop(self) -> object:
        value = self.stack.pop()
        if value is MARK:
            raise PickleError("it uses a value that does not exist")
        return value

    def top(self) -> object:
        value = self.stack[-1]
        if value is MARK:
            raise PickleError("it uses a value that does not exist")
        return value

    def group(self) -> list[object]:
        """Remove the values above the last mark, and the mark, from the stack. Returns the values."""
        values: list[object] = []
        while (value := self.stack.pop()) is not MARK:
            values.append(value)
        return values[::-1]

    def named(self, module: object, name: object) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it refers to something without a name")
        reference = Global(module, name)
        self.refuse(reference)
        return reference

    def push(self, argument: object) -> None:
        self.stack.append(argument)

    def push_text(self, argument: str) -> None:
        self.stack.append(argument.encode("latin-1"))  # a text of Python 2, which pickletools decodes as Latin-1

    def put(self, place: int) -> None:
        self.memo[place] = self.top()

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise PickleError(f"it reads the value {place}, which it did not store")
        self.stack.append(self.memo[place])

    def small_tuple(self, _: object, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) < count or MARK in values:
            raise PickleError("it uses a value that does not exist")
        self.stack[-count:] = [values]

    def do_mark(self, _: object) -> None:
        self.stack.append(MARK)

    def do_pop(self, _: object) -> None:
        self.stack.pop()

    def do_pop_mark(self, _: object) -> None:
        self.group()

    def do_dup(self, _: object) -> None:
        self.stack.append(self.top())

    def do_memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.top()

    def do_empty_list(self, _: object) -> None:
        self.stack.append([])

    def do_empty_dict(self, _: object) -> None:
        self.stack.append({})

    def do_empty_set(self, _: object) -> None:
        self.stack.append(Call(Global("builtins", "set"), ()))

    def do_list(self, _: object) -> None:
        self.stack.append(self.group())

    def do_tuple(self, _: object) -> None:
        self.stack.append(tuple(self.group()))

    def do_frozenset(self, _: object) -> None:
        self.stack.append(Call(Global("builtins", "frozenset"), (self.group(),)))

    def do_dict(self, _: object) -> None:
        values = self.group()
        self.stack.append({})
        self.store(values)

    def do_append(self, _: object) -> None:
        self.extend([self.pop()])

    def do_appends(self, _: object) -> None:
        self.extend(self.group())

    def do_additems(self, _: object) -> None:
        self.extend(self.group())

    def extend(self, values: list[object]) -> None:
        owner = self.top()
        if isinstance(owner, Call):
            owner.elements = owner.elements if owner.elements is not None else []
            owner = owner.elements
        if not isinstance(owner, list):
            raise PickleError(f"it appends to a {type(owner).__name__}")
        owner.extend(values)

    def do_setitem(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self.store([key, value])

    def do_setitems(self, _: object) -> None:
        self.store(self.group())

    def store(self, values: list[object]) -> None:
        owner = self.top()
        if isinstance(owner, Call):
            owner.entries = owner.entries if owner.entries is not None else {}
            owner = owner.entries
        if not isinstance(owner, dict) or len(values) % 2:
            raise PickleError(f"it stores {len(values)} keys and values in a {type(owner).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not _is_flat(key):
                owner[_key(key)] = value

    def do_global(self, argument: str) -> None:
        self.stack.append(self.named(*argument.split(" ", 1)))

    def do_stack_global(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.named(module, name))

    def do_reduce(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(Call(function, arguments))

    do_newobj = do_reduce

    def do_newobj_ex(self, _: object) -> None:
        _, arguments, function = self.pop(), self.pop(), self.pop()
        self.stack.append(Call(function, arguments))

    def do_inst(self, argument: str) -> None:
        self.stack.append(Call(self.named(*argument.split(" ", 1)), tuple(self.group())))

    def do_obj(self, _: object) -> None:
        function, *arguments = self.group()
        self.stack.append(Call(function, tuple(arguments)))

    def do_build(self, _: object) -> None:
        state, owner = self.pop(), self.top()
        if isinstance(owner, Call):
            owner.state = state

    def do_binpersid(self, _: object) -> None:
        self.stack.append(self.persistent(self.pop()))

    def do_persid(self, argument: str) -> None:
        self.stack.append(self.persistent(argument))


def _is_flat(key: object) -> bool:
    """Whether a key is a tuple of simple values. Its entry is skipped: tuples can be chosen to have equal hashes."""
    return isinstance(key, tuple) and not any(isinstance(part, tuple | Call) for part in key)


def _key(value: object) -> str | float | Call | None:
    """A key whose hash takes little time. Raises PickleError for other keys."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise PickleError(f"a key is a number of more than {MOST_BITS} bits")
    value = text(value)
    if value is None or isinstance(value, str | int | float | Call):
        return value
    raise PickleError(f"a key is a {'nested ' * isinstance(value, tuple)}{type(value).__name__}, expected a text")


Step = Callable[[_Machine, Any], None]  # pickletools gives the argument of an opcode without a type


def _constant(value: object) -> Step:
    return lambda machine, _: machine.stack.append(value)


def _each(names: str, step: Step) -> dict[str, Step]:
    return dict.fromkeys(names.split(), step)


# Opcodes by their names in pickletools. Others (extension registry, out-of-band buffers) are refused.
STEPS: dict[str, Step] = {
    **_each("PROTO FRAME STOP", lambda machine, _: None),
    **_each("INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT", _Machine.push),
    **_each("UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8", _Machine.push),
    **_each("BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8", _Machine.push),
    **_each("STRING BINSTRING SHORT_BINSTRING", _Machine.push_text),
    **_each("PUT BINPUT LONG_BINPUT", _Machine.put),
    **_each("GET BINGET LONG_BINGET", _Machine.get),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": partial(_Machine.small_tuple, count=1),
    "TUPLE2": partial(_Machine.small_tuple, count=2),
    "TUPLE3": partial(_Machine.small_tuple, count=3),
    **{name[3:].upper(): step for name, step in vars(_Machine).items() if name.startswith("do_")},
}
