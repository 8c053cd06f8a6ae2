"""Ids of images and categories in files of other tools: whole numbers, numbers such as 7.0, and text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

Id = int | str
LONGEST = 18  # digits of a text that counts as a number


def plain_id(value: object) -> Id | None:
    """An id as a whole number or text; None for a value that cannot be an id."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def id_order(value: Id) -> tuple[bool, Id]:
    """A key that sorts ids: numbers first, then text."""
    return isinstance(value, str), value


def is_number(value: Id) -> bool:
    """Whether an id is a number, or a text of digits."""
    return _number(value) is not None


class Ids:
    """The ids that a file defines, for finding the id that another entry refers to."""

    def __init__(self, known: Iterable[Id]) -> None:
        self.known = set(known)
        self.by_number: defaultdict[int, list[Id]] = defaultdict(list)
        for value in self.known:
            number = _number(value)
            if number is not None:
                self.by_number[number].append(value)

    def find(self, value: object) -> Id | None:
        """The known id that equals `value`, or the only known id with the same number; otherwise None.

        For example, "007" refers to 7 if no other known id has this number.
        """
        plain = plain_id(value)
        if plain is None or plain in self.known:
            return plain
        number = _number(plain)
        same = self.by_number.get(number, []) if number is not None else []
        return same[0] if len(same) == 1 else None


def _number(value: Id) -> int | None:
    if isinstance(value, int):
        return value
    return int(value) if value.isascii() and value.isdigit() and len(value) <= LONGEST else None
