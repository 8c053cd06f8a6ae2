"""The folder is the registry: a seam's members are its files, imported only when one is used."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from sandglass.core.errors import InputError

PACKAGE = Path(__file__).parents[1]
SEAMS = ("backends", "models", "tasks", "datasets")


def names(seam: str) -> list[str]:
    """Names of a seam's members as a user writes them (`coco-keypoints` for coco_keypoints.py), sorted."""
    folder = PACKAGE / seam
    return sorted(file.stem.replace("_", "-") for file in folder.glob("*.py") if not file.stem.startswith("_"))


def load(seam: str, name: str) -> ModuleType:
    """Import and return the member `name` of `seam`; raises InputError listing the known ones."""
    known = names(seam)
    if name not in known:
        raise InputError(f"unknown {seam.removesuffix('s')} {name!r}", f"known: {', '.join(known)}")
    return importlib.import_module(f"sandglass.{seam}.{name.replace('-', '_')}")
