"""Which annotations of a COCO file are people: categories as people's tools write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandglass.core.image_ids import Id, Ids, is_number, plain_id
from sandglass.vision import coco17

PERSON = "person"
PERSON_ID = 1  # in COCO's own files


class Categories:
    """The categories of a file by `names`, the name of each id in lower case; `person` is the name of people's."""

    def __init__(self, names: Mapping[Id, str], person: str) -> None:
        self.names, self.person, self.ids = dict(names), person, Ids(names)

    @property
    def person_id(self) -> Id:
        """The first id of people."""
        return next(key for key, name in self.names.items() if name == self.person)

    def find(self, entry: Mapping[str, object]) -> str | None:
        """The category of an annotation: that of people where it names none, None where it is not known."""
        value = entry.get("category_id")
        if value is None:
            return self.person
        own = self.ids.find(value)
        if own is not None:
            return self.names[own]
        return name if isinstance(value, str) and (name := value.lower()) in self.names.values() else None

    def is_person(self, entry: Mapping[str, object]) -> bool:
        """Whether an annotation or a detection is of a person."""
        return self.find(entry) == self.person


def read_categories(listed: object, annotations: Sequence[Mapping[str, object]]) -> Categories:
    """The categories of a file, from its list (anything else counts as none) and its annotations.

    People are the category `person`, else the only one, else the only one of 17 keypoints, else the one of COCO's id.
    Where no annotation is of that category, and all that are not of a known one have the same number, these are people.
    """
    known: Mapping[Id, Mapping[str, object]] = {
        own: entry
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and (own := plain_id(entry.get("id"))) is not None
    } or {PERSON_ID: coco17.CATEGORY}
    names = {own: str(entry.get("name") or f"category {own}").lower() for own, entry in known.items()}
    person = _people_among(known, names)
    categories = Categories(names, person)
    unknown = {plain_id(entry["category_id"]) for entry in annotations if categories.find(entry) is None}
    if len(unknown) != 1 or any(map(categories.is_person, annotations)):
        return categories
    (only,) = unknown
    return Categories({only: person}, person) if only is not None and is_number(only) else categories


def _people_among(known: Mapping[Id, Mapping[str, object]], names: Mapping[Id, str]) -> str:
    """The name of people's category."""
    complete = [own for own, entry in known.items() if _has_all_keypoints(entry)]
    if PERSON in names.values():
        return PERSON
    for candidates in (list(known), complete):
        if len(candidates) == 1:
            return names[candidates[0]]
    return names.get(PERSON_ID, PERSON)


def _has_all_keypoints(category: Mapping[str, object]) -> bool:
    keypoints = category.get("keypoints")
    return isinstance(keypoints, list) and len(keypoints) == len(coco17.NAMES)
