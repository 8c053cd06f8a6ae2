"""The categories of a COCO file, and which of its annotations are people, in the variants that many tools write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandglass.core.image_ids import Id, Ids, is_number, plain_id
from sandglass.vision import coco17

PERSON = "person"
PERSON_ID = 1  # in COCO's own files


class Categories:
    """The categories of a file: `names` has the name of each id in lower case, and `person` is the name for people."""

    def __init__(self, names: Mapping[Id, str], person: str) -> None:
        self.names, self.person, self.ids = dict(names), person, Ids(names)

    @property
    def person_id(self) -> Id:
        """The first id of the category for people."""
        return next(key for key, name in self.names.items() if name == self.person)

    def find(self, entry: Mapping[str, object]) -> str | None:
        """The category of an annotation: people if it has no category, None if its category is unknown."""
        value = entry.get("category_id")
        if value is None:
            return self.person
        category_id = self.ids.find(value)
        if category_id is not None:
            return self.names[category_id]
        return name if isinstance(value, str) and (name := value.lower()) in self.names.values() else None

    def is_person(self, entry: Mapping[str, object]) -> bool:
        """Whether an annotation or a detection is of a person."""
        return self.find(entry) == self.person


def read_categories(listed: object, annotations: Sequence[Mapping[str, object]]) -> Categories:
    """The categories of a file, from its list `listed` (anything else counts as empty) and its annotations.

    The category for people is `person`; if there is none, the only category; or the only one with 17 keypoints; or the
    one with COCO's id. If no annotation has that category, and all annotations of unknown categories have the same
    number, these are people.
    """
    by_id: Mapping[Id, Mapping[str, object]] = {
        category_id: entry
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and (category_id := plain_id(entry.get("id"))) is not None
    } or {PERSON_ID: coco17.CATEGORY}
    names = {key: str(entry.get("name") or f"category {key}").lower() for key, entry in by_id.items()}
    person = _people_among(by_id, names)
    categories = Categories(names, person)
    unknown = {plain_id(entry["category_id"]) for entry in annotations if categories.find(entry) is None}
    if len(unknown) != 1 or any(map(categories.is_person, annotations)):
        return categories
    (only,) = unknown
    return Categories({only: person}, person) if only is not None and is_number(only) else categories


def _people_among(categories: Mapping[Id, Mapping[str, object]], names: Mapping[Id, str]) -> str:
    """The name of the category for people."""
    complete = [key for key, entry in categories.items() if _has_all_keypoints(entry)]
    if PERSON in names.values():
        return PERSON
    for candidates in (list(categories), complete):
        if len(candidates) == 1:
            return names[candidates[0]]
    return names.get(PERSON_ID, PERSON)


def _has_all_keypoints(category: Mapping[str, object]) -> bool:
    keypoints = category.get("keypoints")
    return isinstance(keypoints, list) and len(keypoints) == len(coco17.NAMES)
