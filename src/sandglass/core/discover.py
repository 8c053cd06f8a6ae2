"""Find the members of a seam. The folder is the registry: each file in it is one member.

A seam is named by the path of its folder in the package, for example `backends` or `quantization/repairs`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from sandglass.core.errors import InputError

PACKAGE = Path(__file__).parents[1]
SEAMS = ("backends", "models", "tasks", "datasets")


def names(seam: str) -> list[str]:
    """The names of a seam's members as users write them (`coco-keypoints` for coco_keypoints.py), sorted."""
    return [file.replace("_", "-") for file in _files(seam)]


def load(seam: str, name: str) -> ModuleType:
    """Import and return the member `name` of `seam`. Raises InputError with the known names for an unknown one."""
    known = names(seam)
    if name not in known:
        raise InputError(f"unknown {seam.removesuffix('s')} {name!r}", f"known: {', '.join(known)}")
    return _module(seam, name.replace("-", "_"))


def load_all(seam: str) -> dict[str, ModuleType]:
    """Import all members of a seam. Returns the modules by the name of their file, sorted."""
    return {file: _module(seam, file) for file in _files(seam)}


def _files(seam: str) -> list[str]:
    return sorted(file.stem for file in (PACKAGE / seam).glob("*.py") if not file.stem.startswith("_"))


def _module(seam: str, file: str) -> ModuleType:
    return importlib.import_module(f"sandglass.{seam.replace('/', '.')}.{file}")
