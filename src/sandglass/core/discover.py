"""The members of a seam: its files, and the plugins of other installed packages.

A seam is named by its path in the package. A file is found because it is there; a plugin is found by its entry point
(see `core.plugins`). A file has precedence over a plugin of the same name. The entry points are read only if a caller
needs all names, or a name that no file has: `sandglass --help` needs none of them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from sandglass.core.errors import InputError, PluginError
from sandglass.core.plugins import Plugin, check_name, plugins

PACKAGE = Path(__file__).parents[1]
SEAMS = ("backends", "models", "tasks", "datasets", "quantization/repairs", "sources/rewrites")


def names(seam: str) -> list[str]:
    """The names of a seam's members as users write them (`coco-keypoints` for coco_keypoints.py), sorted."""
    return sorted({*own_names(seam), *(plugin.name for plugin in plugins_of(seam))})


def own_names(seam: str) -> list[str]:
    """Names of the members that are files of this package, sorted."""
    return [file.replace("_", "-") for file in _files(seam)]


def has(seam: str, name: str) -> bool:
    """Whether a seam has the member `name`."""
    return name in own_names(seam) or name in names(seam)


def load(seam: str, name: str) -> ModuleType:
    """Import and return the member `name` of `seam`.

    Raises InputError that lists the known ones, and PluginError for a plugin that cannot be used.
    """
    if name in own_names(seam):
        return _module(seam, name)
    for plugin in plugins_of(seam):
        if plugin.name == name:
            return load_plugin(seam, plugin)
    kind = seam.rpartition("/")[2].removesuffix("s")
    raise InputError(f"unknown {kind} {name!r}", f"known: {', '.join(names(seam))}")


def load_all(seam: str) -> dict[str, ModuleType]:
    """Import every member of a seam, of which all are needed at once: by the name of its file or plugin, sorted.

    Raises PluginError where one of the plugins cannot be used.
    """
    members = {file: _module(seam, file) for file in _files(seam)}
    return members | {plugin.name.replace("-", "_"): load_plugin(seam, plugin) for plugin in plugins_of(seam)}


def load_usable(seam: str) -> dict[str, ModuleType]:
    """Import every member of a seam, by its name, sorted; plugins that cannot be used are left out."""
    return {name: module for name in names(seam) if (module := _usable(seam, name))}


def plugins_of(seam: str) -> tuple[Plugin, ...]:
    """The plugins of a seam in the order of their names, also those that cannot be used."""
    return plugins(f"sandglass.{seam.rpartition('/')[2]}")


def package_of(seam: str, name: str) -> dict[str, str]:
    """The package of the plugin `name` with its version; empty for a file of this package."""
    if name in own_names(seam):
        return {}
    return {plugin.package: plugin.version for plugin in plugins_of(seam) if plugin.name == name}


def load_plugin(seam: str, plugin: Plugin) -> ModuleType:
    """Import a plugin. Raises PluginError where its name is taken, or its module lacks what the seam asks for."""
    check_name(plugin, own_names(seam))
    return plugin.load(contract(seam))


def contract(seam: str) -> type:
    """The protocol that a member of a seam has."""
    protocol: type = importlib.import_module(_path(seam)).CONTRACT
    return protocol


def _usable(seam: str, name: str) -> ModuleType | None:
    try:
        return load(seam, name)
    except PluginError:
        return None


def _files(seam: str) -> list[str]:
    return sorted(file.stem for file in (PACKAGE / seam).glob("*.py") if not file.stem.startswith("_"))


def _module(seam: str, name: str) -> ModuleType:
    return importlib.import_module(f"{_path(seam)}.{name.replace('-', '_')}")


def _path(seam: str) -> str:
    return f"sandglass.{seam.replace('/', '.')}"
