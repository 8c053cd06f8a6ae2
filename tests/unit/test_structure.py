"""The source tree: how many entries it has at its top, and which part may import which."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sandglass

PACKAGE = Path(sandglass.__file__).parent
MOST_ENTRIES, MOST_FLOORS = 22, 14


def module_name(path: Path) -> str:
    """The dotted name below `sandglass`, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports() -> dict[str, set[str]]:
    """For each module the modules of the package that it imports, those inside functions included."""
    paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for imported in (entry.partition(".")[2] for entry in names if entry.split(".")[0] == "sandglass"):
                found[name].add(imported if imported in paths else imported.rpartition(".")[0])
        found[name].discard(name)  # a member of a seam names itself, for mypy
    return found


def part(module: str) -> str:
    """The entry at the top of the package that a module lies in."""
    return module.partition(".")[0]


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """For each node the length of the longest chain of imports below it, itself included. Raises CycleError."""
    height: dict[str, int] = {}
    for node in TopologicalSorter(graph).static_order():
        height[node] = 1 + max((height[below] for below in graph.get(node, ())), default=0)
    return height


def between_parts() -> dict[str, set[str]]:
    """The imports between entries at the top."""
    found: dict[str, set[str]] = {}
    for module, imported in imports().items():
        found.setdefault(part(module), set()).update(part(name) for name in imported if part(name) != part(module))
    return {name: below - {""} for name, below in found.items()}


def test_top_is_small() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES


def test_modules_import_each_other_in_one_direction() -> None:
    """No cycle, also none that only an import inside a function closes."""
    floors(imports())


def test_parts_lie_in_few_floors() -> None:
    assert max(floors(between_parts()).values()) <= MOST_FLOORS


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("tasks", "backends"), ("backends", "tasks"), ("graph", "quantization"), ("lowering", "quantization")],
)
def test_part_does_not_import(importer: str, imported: str) -> None:
    assert imported not in between_parts()[importer]
