"""Find the members of a seam: the files in its folder, and the plugins of other installed packages.

A seam is named by the path of its folder in the package, for example `backends` or `quantization/repairs`. Each file in
the folder is a member. A plugin is found by its entry point (see `core.plugins`). A file has precedence over a plugin
of the same name. Entry points are read only if all names are needed, or a name without a file. `sandglass --help` does
not read them.
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

    Raises InputError with the known names for an unknown one, and PluginError for a plugin that cannot be used.
    """
    if name in own_names(seam):
        return _module(seam, name)
    for plugin in plugins_of(seam):
        if plugin.name == name:
            return load_plugin(seam, plugin)
    kind = seam.rpartition("/")[2].removesuffix("s")
    raise InputError(f"unknown {kind} {name!r}", f"known: {', '.join(names(seam))}")


def load_all(seam: str) -> dict[str, ModuleType]:
    """Import all members of a seam. Returns the modules by the name of their file or plugin, sorted.

    Raises PluginError if one of the plugins cannot be used.
    """
    members = {file: _module(seam, file) for file in _files(seam)}
    return members | {plugin.name.replace("-", "_"): load_plugin(seam, plugin) for plugin in plugins_of(seam)}


def load_usable(seam: str) -> dict[str, ModuleType]:
    """Import all members of a seam except unusable plugins. Returns the modules by name, sorted."""
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
    """Import a plugin. Raises PluginError if its name is taken or if its module does not implement the protocol."""
    check_name(plugin, own_names(seam))
    return plugin.load(contract(seam))


def contract(seam: str) -> type:
    """The protocol of a seam's members."""
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
