"""The folder is the registry: a seam's members are its files. A seam is named by its path in the package."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from sandglass.core.errors import InputError

PACKAGE = Path(__file__).parents[1]
SEAMS = ("backends", "models", "tasks", "datasets")


def names(seam: str) -> list[str]:
    """Names of a seam's members as a user writes them (`coco-keypoints` for coco_keypoints.py), sorted."""
    return [file.replace("_", "-") for file in _files(seam)]


def load(seam: str, name: str) -> ModuleType:
    """Import and return the member `name` of `seam`; raises InputError listing the known ones."""
    known = names(seam)
    if name not in known:
        raise InputError(f"unknown {seam.removesuffix('s')} {name!r}", f"known: {', '.join(known)}")
    return _module(seam, name.replace("-", "_"))


def load_all(seam: str) -> dict[str, ModuleType]:
    """Import every member of a seam, of which all are needed at once: by the name of its file, sorted."""
    return {file: _module(seam, file) for file in _files(seam)}


def _files(seam: str) -> list[str]:
    return sorted(file.stem for file in (PACKAGE / seam).glob("*.py") if not file.stem.startswith("_"))


def _module(seam: str, file: str) -> ModuleType:
    return importlib.import_module(f"sandglass.{seam.replace('/', '.')}.{file}")
