"""OpenMMLab's config files, read as data: parsed with `ast` and never run.

A config is a Python file of assignments. Here it may hold literals, `dict(...)`, references to what was assigned before
and to `_base_`, arithmetic on numbers, joined strings, and `_base_` files that it is merged into, `_delete_` included.
Merging is that of mmengine 0.10's `Config`. Whatever else Python can say is refused.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sandglass.errors import ConfigError

BASE, DELETE = "_base_", "_delete_"
MOST_BYTES = 1_000_000
LONGEST = 100_000  # elements of a repeated sequence, bits of a number: no config is near
OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}
MISSHAPEN = (AttributeError, KeyError, TypeError)  # what a number or a list raises where a dict was expected
READ_NOT_RUN = "configs are parsed and never run; write the value itself"


def read_config(path: Path) -> dict[str, Any]:
    """What a config assigns, merged into what its `_base_` files assign.

    Raises ConfigError, with file and line, for anything but data, and for a file that is missing, no Python, or its
    own base.
    """
    return _read(path, ())


def at(tree: Any, place: str, default: Any = None) -> Any:
    """The value at a dotted place such as `model.head.type` or `stages.0.width`; `default` where there is none."""
    for part in place.split("."):
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list | tuple) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return default
    return tree


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in readers:
        raise ConfigError(f"{path} is a _base_ of itself", "break the circle")
    tree = _parse(path)
    base: dict[str, Any] = {}
    for statement in tree.body:
        if _assigns(statement, BASE):
            for file in _base_files(path, statement):
                found = _read(file, (*readers, path.resolve()))
                if twice := sorted(set(base) & set(found)):
                    raise _refusal(path, statement, f"two of its bases assign {twice[0]}", "remove one of them")
                base |= found
    names = _Reader(path, base).run(tree)
    names.pop(BASE)
    return _merged(base, names, path, "")


def _parse(path: Path) -> ast.Module:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}", "check the path") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} has {len(data)} bytes, a config has at most {MOST_BYTES}", "give a config")
    try:
        return ast.parse(data, str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: this is not Python: {error.msg}", "give a config") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{path} is not Python: {error}", "give a config") from error


def _assigns(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.Assign) and [t.id for t in statement.targets if isinstance(t, ast.Name)] == [name]


def _base_files(path: Path, statement: ast.stmt) -> list[Path]:
    assert isinstance(statement, ast.Assign)
    value = _Reader(path, {}).value(statement.value)
    names = value if isinstance(value, list | tuple) else [value]
    for name in names:
        if not isinstance(name, str):
            raise _refusal(path, statement, f"_base_ is {value!r}", "name files beside the config")
        if "::" in name or not name.endswith(".py"):
            raise _refusal(path, statement, f"_base_ names {name}", "only .py files beside the config are read")
    return [path.parent / name for name in names]


def _merged(base: Mapping[str, Any], new: Mapping[str, Any], path: Path, where: str) -> dict[str, Any]:
    """`new` over `base`: dicts are merged key by key unless the new one says `_delete_`, the rest is replaced."""
    result = dict(base)
    for key, value in new.items():
        if isinstance(value, dict) and value.get(DELETE, False):
            result[key] = {name: kept for name, kept in value.items() if name != DELETE}
        elif not isinstance(value, dict) or key not in base:
            result[key] = value
        elif isinstance(base[key], dict):
            result[key] = _merged(base[key], value, path, f"{where}{key}.")
        else:
            raise ConfigError(
                f"{path}: {where}{key} is a dict, and in its _base_ it is {base[key]!r}",
                "give it `_delete_=True` to replace that",
            )
    return result


def _refusal(path: Path, node: ast.AST, message: str, fix: str = READ_NOT_RUN) -> ConfigError:
    return ConfigError(f"{path}:{getattr(node, 'lineno', 0)}: {message}", fix)


class _Reader:
    """The assignments of one file; `names` is what was assigned so far."""

    def __init__(self, path: Path, base: dict[str, Any]) -> None:
        self.path = path
        self.names: dict[str, Any] = {BASE: base}

    def run(self, tree: ast.Module) -> dict[str, Any]:
        """Assign, statement by statement."""
        for statement in tree.body:
            if isinstance(statement, ast.Assign):
                if not _assigns(statement, BASE):
                    value = self.value(statement.value)
                    for target in statement.targets:
                        self.assign(target, value)
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                raise self.refusal(statement, f"{_told(statement)} is refused")
        return self.names

    def refusal(self, node: ast.AST, message: str, fix: str = READ_NOT_RUN) -> ConfigError:
        return _refusal(self.path, node, message, fix)

    def assign(self, target: ast.expr, value: Any) -> None:
        """To a name, or into a dict that a name refers to."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Attribute | ast.Subscript):
            owner = self.value(target.value)
            key = target.attr if isinstance(target, ast.Attribute) else self.value(target.slice)
            try:
                owner[key] = value
            except (TypeError, IndexError) as error:
                raise self.refusal(target, f"cannot assign to {ast.unparse(target)}: {error}") from error
        else:
            raise self.refusal(target, f"an assignment to {ast.unparse(target)} is refused")

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; each kind that configs use has a method, by the name of its node."""
        read = getattr(self, f"_{type(node).__name__.lower()}", None)
        if read is None:
            raise self.refusal(node, f"{_told(node)} is refused")
        try:
            return read(node)
        except RecursionError as error:
            raise self.refusal(node, "this is nested too deeply") from error

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _list(self, node: ast.List) -> list[Any]:
        return self._elements(node.elts)

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._elements(node.elts))

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found.extend(self._checked(node, self.value(node.value), (list, tuple)))
            else:
                found.append(self.value(node))
        return found

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found |= self._checked(value, self.value(value), dict)
            else:
                found[self._checked(key, self.value(key), (str, int, float))] = self.value(value)
        return found

    def _set(self, node: ast.Set) -> Any:
        """`{{_base_.name}}`, which Python reads as a set in a set, is a reference."""
        inner = node.elts[0]
        if len(node.elts) != 1 or not isinstance(inner, ast.Set) or len(inner.elts) != 1:
            raise self.refusal(node, "a set is refused")
        return self.value(inner.elts[0])

    def _call(self, node: ast.Call) -> dict[str, Any]:
        """`dict(...)`, with another dict as its argument or without."""
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or len(node.args) > 1:
            raise self.refusal(node, f"a call of {ast.unparse(node.func)} is refused")
        found: dict[str, Any] = {}
        for argument in node.args:
            found |= self._checked(argument, self.value(argument), dict)
        for keyword in node.keywords:
            value = self.value(keyword.value)
            found |= {keyword.arg: value} if keyword.arg else self._checked(keyword.value, value, dict)
        return found

    def _name(self, node: ast.Name) -> Any:
        if node.id not in self.names:
            raise self.refusal(node, f"{node.id} is not assigned before", "assign it above, or refer to _base_")
        return self.names[node.id]

    def _attribute(self, node: ast.Attribute) -> Any:
        return self._member(node, self._checked(node, self.value(node.value), dict), node.attr)

    def _subscript(self, node: ast.Subscript) -> Any:
        owner = self._checked(node, self.value(node.value), (dict, list, tuple, str))
        return self._member(node, owner, self.value(node.slice))

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(part and self.value(part) for part in (node.lower, node.upper, node.step)))

    def _member(self, node: ast.expr, owner: Any, key: Any) -> Any:
        try:
            return owner[key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self.refusal(node, f"{ast.unparse(node)}: there is no {key!r}", "refer to what exists") from error

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        value = self._checked(node, self.value(node.operand), (bool, int, float))
        if isinstance(node.op, ast.Not):
            return not value
        if isinstance(node.op, ast.USub):
            return -value
        raise self.refusal(node, f"{ast.unparse(node)} is refused")

    def _binop(self, node: ast.BinOp) -> Any:
        """Arithmetic on numbers; strings and sequences may be joined, and repeated by a number."""
        left, right = self.value(node.left), self.value(node.right)
        known = OPERATIONS.get(type(node.op))
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        joined = isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, str | list | tuple)
        repeated = isinstance(node.op, ast.Mult) and isinstance(left, list | tuple | str) and isinstance(right, int)
        if known is None or not (numbers or joined or repeated):
            raise self.refusal(node, f"{ast.unparse(node)} is refused: it is no arithmetic on numbers")
        grows = repeated and len(left) * right > LONGEST
        if grows or (isinstance(node.op, ast.Pow | ast.LShift) and not abs(right) <= 64):
            raise self.refusal(node, f"{ast.unparse(node)} is too large")
        try:
            return known(left, right)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise self.refusal(node, f"{ast.unparse(node)}: {error}", "mend the config") from error

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        parts = []
        for part in node.values:
            value = self.value(part.value if isinstance(part, ast.FormattedValue) else part)
            if isinstance(part, ast.FormattedValue) and (part.format_spec or part.conversion != -1):
                raise self.refusal(node, "a format in a string is refused")
            parts.append(str(self._checked(part, value, (str, int, float))))
        return "".join(parts)

    def _checked(self, node: ast.AST, value: Any, kind: type | tuple[type, ...]) -> Any:
        if not isinstance(value, kind):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise self.refusal(node, f"{type(value).__name__} where {names} is expected", "mend the config")
        return value


def _told(node: ast.AST) -> str:
    """What a refused piece of Python is called."""
    names: dict[type[ast.AST], str] = {
        ast.Import: "an import",
        ast.ImportFrom: "an import",
        ast.FunctionDef: "a function",
        ast.ClassDef: "a class",
        ast.Lambda: "a function",
        ast.ListComp: "a comprehension",
        ast.DictComp: "a comprehension",
        ast.SetComp: "a comprehension",
        ast.GeneratorExp: "a comprehension",
        ast.If: "a condition",
        ast.IfExp: "a condition",
        ast.For: "a loop",
        ast.While: "a loop",
        ast.Delete: "`del`",
    }
    if isinstance(node, ast.With) and "read_base" in ast.unparse(node.items[0]):
        return "`with read_base()` (a config that imports others)"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return f"a call of {ast.unparse(node.value.func)}"
    return names.get(type(node), f"`{ast.unparse(node)[:60]}`")
