"""OpenMMLab's config files, read as data: parsed with `ast` and never run.

A config is a Python file of assignments (see `expressions`). Its `_base_` files are merged under it as mmengine 0.10's
`Config` does, `_delete_` included. In the newer style, `with read_base():`, the names of other files are imported
instead. A base that is not there (in another package, or not copied with the config) is left out if it concerns only
training.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from sandglass.core.errors import ConfigError, shown
from sandglass.core.reading import read_bytes
from sandglass.core.toml_files import excess
from sandglass.sources.openmmlab.expressions import Expressions, assigned, refusal
from sandglass.sources.openmmlab.limits import Budget

Config = Mapping[str, object]  # what a config assigns, or one of the dictionaries in it
BASE, DELETE = "_base_", "_delete_"
MOST_LEVELS = 50  # of dictionaries in one another
# What OpenMMLab calls the folders and files of its packages that say how a model is trained, and not what it is.
TRAINING_ONLY = ("schedules", "default_runtime")
MISSHAPEN = (AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError)  # of an unexpected shape


def read_config(path: Path) -> dict[str, object]:
    """What a config assigns, merged into what its `_base_` files assign.

    Raises ConfigError, with file and line, for anything but data, for a file that is missing, not Python, or its own
    base, and for what is larger than any config.
    """
    found = _read(path, (), Budget())
    if problem := excess(found):
        raise ConfigError(f"{path}: what it describes {problem}", "give the config of a model")
    return found


def at(tree: object, place: str, default: object = None) -> object:
    """The value at a dotted place such as `model.head.type` or `stages.0.width`; `default` where there is none."""
    for part in place.split("."):
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list | tuple) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return default
    return tree


def settings_at(tree: object, place: str) -> Config:
    """The dictionary at a dotted place, an empty one where there is none. Raises TypeError for another value."""
    value = at(tree, place)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"{place} is {shown(value)}, expected a dictionary")
    return value


def number_at(tree: object, place: str, default: int | None = None) -> int:
    """The whole number at a dotted place. Raises TypeError for another value."""
    value = at(tree, place, default)
    if not isinstance(value, int):
        raise TypeError(f"{place} is {shown(value)}, expected a whole number")
    return value


def _read(path: Path, readers: tuple[str, ...], budget: Budget) -> dict[str, object]:
    tree = _parse(path, budget)
    place = os.path.realpath(path)
    if place in readers:
        raise ConfigError(f"{path} is a _base_ of itself", "break the circle")
    reader = _Reader(path, (*readers, place), budget)
    for statement in tree.body:
        if assigned(statement) == BASE and isinstance(statement, ast.Assign):
            reader.add_bases(statement)
    for statement in tree.body:
        if assigned(statement) != BASE:
            reader.run(statement)
    del reader.names[BASE]
    return merged(reader.base, reader.names, path, budget)


def _parse(path: Path, budget: Budget) -> ast.Module:
    data = read_bytes(path, ConfigError, "config", most=budget.open(path))
    budget.read(len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's, for the author of the file
            return ast.parse(data, str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: this is not Python: {error.msg}", "give a config") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path} is not Python: {error}", "give a config") from error


def merged(base: Config, new: Config, path: Path, budget: Budget, where: str = "", level: int = 0) -> dict[str, object]:
    """`new` over `base`: dicts are merged key by key unless the new one says `_delete_`, the rest is replaced."""
    budget.make(len(base) + len(new), path)
    if level > MOST_LEVELS:
        raise ConfigError(f"{path}: {where[:60]}... is nested over {MOST_LEVELS} levels deep", "give a config")
    result = dict(base)
    for key, value in new.items():
        below = base.get(key)
        if isinstance(value, dict) and value.get(DELETE, False):
            result[key] = {name: part for name, part in value.items() if name != DELETE}
        elif not isinstance(value, dict) or key not in base:
            result[key] = value
        elif isinstance(below, dict):
            result[key] = merged(below, value, path, budget, f"{where}{key}.", level + 1)
        else:
            raise ConfigError(
                f"{path}: {where}{key} is a dict, and in its _base_ it is {shown(below)}",
                "give it `_delete_=True` to replace that",
            )
    return result


def _is_training_only(parts: list[str]) -> bool:
    return any(part in TRAINING_ONLY for part in parts)


class _Reader(Expressions):
    """The statements of one file, and the files that it is based on."""

    def __init__(self, path: Path, readers: tuple[str, ...], budget: Budget) -> None:
        self.base: dict[str, object] = {}
        super().__init__(path, {BASE: self.base}, budget)
        self.readers = readers

    def add_bases(self, statement: ast.Assign) -> None:
        """Read the files that `_base_` names."""
        value = self.value(statement.value)
        for name in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(name, str):
                raise refusal(self.path, statement, f"_base_ is {shown(value)}", "name files beside the config")
            package, _, inside = name.rpartition("::")
            path = self.path.parent / name
            missing = bool(package) or not os.path.exists(path)
            if missing and _is_training_only(inside.removesuffix(".py").split("/")):
                continue
            if package or not name.endswith(".py"):
                raise refusal(self.path, statement, f"_base_ names {name}", "only .py files beside the config are read")
            if missing:
                raise refusal(self.path, statement, f"_base_ names {name}, and there is no such file",
                              "copy the _base_ files too, or give the config in its repository")  # fmt: skip
            found = _read(path, self.readers, self.budget)
            if twice := sorted(set(self.base) & set(found)):
                raise refusal(self.path, statement, f"two of its bases assign {twice[0]}", "remove one of them")
            self.base.update(found)

    def run(self, statement: ast.stmt) -> None:
        """Carry out one statement."""
        if isinstance(statement, ast.With) and _reads_base(statement):
            for inner in statement.body:
                self.take_names(inner)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            self.change(statement.value)
        else:
            super().run(statement)

    def take_names(self, statement: ast.stmt) -> None:
        """`from .x import *` in `with read_base():` gives this file the names of another."""
        if isinstance(statement, ast.Pass):
            return
        if not isinstance(statement, ast.ImportFrom):
            raise refusal(self.path, statement, "only `from .file import ...` belongs into `with read_base()`")
        parts = (statement.module or "").split(".")
        folder = self.path.parent
        for _ in range(statement.level - 1):
            folder = folder / ".."
        path = folder.joinpath(*parts).with_suffix(".py")
        if _is_training_only(parts) and (not statement.level or not os.path.exists(path)):
            return
        if not statement.level:
            raise refusal(self.path, statement, f"the base {statement.module} is in another package",
                          "copy its file beside the config, and import it from there")  # fmt: skip
        found = _read(path, self.readers, self.budget)
        for entry in statement.names:
            if entry.name != "*" and entry.name not in found:
                raise refusal(self.path, statement, f"{statement.module} has no {entry.name}", "import what exists")
            own = found.items() if entry.name == "*" else [(entry.asname or entry.name, found[entry.name])]
            self.names |= {name: value for name, value in own if not name.startswith("_")}

    def change(self, call: ast.Call) -> None:
        """`model.update(...)` and `model.merge(...)`, by which configs of the newer style change what they imported."""
        method = call.func
        if not isinstance(method, ast.Attribute) or method.attr not in ("update", "merge") or len(call.args) > 1:
            raise refusal(self.path, call, f"a call of {self.source(call.func)} is refused")
        owner = self.value(method.value)
        new = self.dictionary(call)
        if not isinstance(owner, dict):
            raise refusal(self.path, call, f"{self.source(method.value)} is not a dict", "correct the config")
        owner.update(new if method.attr == "update" else merged(owner, new, self.path, self.budget))


def _reads_base(statement: ast.With) -> bool:
    call = statement.items[0].context_expr
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "read_base"
