"""Plugins: members of seams that other installed packages add by entry points.

The group of a seam is `sandglass.` plus the last part of its path, such as `sandglass.backends`. The name of an entry
point is the member's name, and its value is the member's module:

    [project.entry-points."sandglass.backends"]
    opencv = "sandglass_opencv"

Reading the entry points does not import the packages. It took 115 to 200 ms on a busy two-core machine with 88
packages, mostly for the import of importlib.metadata. So they are read only when a name of a seam needs them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from sandglass.core.errors import PluginError, shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # names appear in targets, folders and options


@dataclass(frozen=True)
class Plugin:
    """A member of a seam that a package adds: the group, the name as a user writes it, the module, and the package."""

    group: str
    name: str
    module: str
    package: str
    version: str

    def load(self, contract: type) -> ModuleType:
        """Import the module. Raises PluginError if this fails, or if it lacks a name of the protocol `contract`."""
        try:
            module = importlib.import_module(self.module)
        except Exception as error:  # code of another project, which may raise anything
            raise self.error(f"importing {shown(self.module)} raised {type(error).__name__}: {error}") from error
        if missing := missing_names(module, contract):
            raise self.error(f"{shown(self.module)} lacks {', '.join(missing)}")
        return module

    def error(self, problem: str) -> PluginError:
        """The error for a problem of this plugin."""
        return PluginError(
            f"the package {self.package} {self.version} adds {shown(self.name)} to {self.group}, "
            f"which cannot be used: {problem}",
            f"install a version of {self.package} for this version of sandglass, or `pip uninstall {self.package}`",
        )


@cache
def plugins(group: str) -> tuple[Plugin, ...]:
    """The plugins of a group, in the order of their names."""
    from importlib.metadata import entry_points  # slow to import

    entries = entry_points(group=group)
    return tuple(sorted(map(_plugin, entries), key=lambda plugin: (plugin.name, plugin.package)))


def _plugin(entry: EntryPoint) -> Plugin:
    package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
    return Plugin(entry.group, entry.name.replace("_", "-"), entry.value, package, version)


def check_name(plugin: Plugin, taken: Collection[str]) -> None:
    """Raise PluginError for an invalid name, and for a name that sandglass or another package also uses.

    `taken` are the names of the seam's own files, as a user writes them.
    """
    if not NAME.fullmatch(plugin.name):
        raise plugin.error("the name must consist of lower-case letters, digits and hyphens")
    if plugin.name in taken:
        raise plugin.error("sandglass itself has a member of this name")
    if others := [other for other in plugins(plugin.group) if other.name == plugin.name and other != plugin]:
        raise plugin.error(f"the package {others[0].package} adds a member of the same name")


def missing_names(module: ModuleType, contract: type) -> list[str]:
    """The names of the protocol `contract` that a module lacks, sorted."""
    names = {*vars(contract), *getattr(contract, "__annotations__", {})}
    return sorted(name for name in names if not name.startswith("_") and not hasattr(module, name))
