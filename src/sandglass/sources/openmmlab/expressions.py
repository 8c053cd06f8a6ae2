"""Evaluate the Python expressions of a config: literals, names, arithmetic on numbers, joined sequences.

All other code is refused, and nothing is run: for each kind of node, a method computes the value from the values of its
parts, within a budget.
"""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable
from pathlib import Path

from sandglass.core.errors import ConfigError, shown
from sandglass.sources.openmmlab.limits import LONGEST, MOST_BITS, Budget

READ_NOT_RUN = "configs are parsed and never run; write the value itself in the config"
CORRECT = "correct the config"
OPERATIONS: dict[type[ast.operator], Callable[[object, object], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}
# Conversions, and the types that they accept.
CONVERSIONS: dict[str, tuple[type, tuple[type, ...]]] = {
    "float": (float, (int, float, str)),
    "int": (int, (int, float, str)),
    "str": (str, (int, float, str)),
    "bool": (bool, (int, float, str)),
    "list": (list, (list, tuple)),
    "tuple": (tuple, (list, tuple)),
}
PLAIN = (bool, int, float, str, list, tuple, dict, slice, type(None))
REFUSED: dict[type[ast.AST], str] = {
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


class Reference(str):
    """The name of an imported class, in the form of older configs. Nothing is imported."""


def refusal(path: Path, node: ast.AST, message: str, fix: str = READ_NOT_RUN) -> ConfigError:
    """The error for a node of a config, with file and line."""
    return ConfigError(f"{path}:{getattr(node, 'lineno', 0)}: {message}", fix)


def assigned(statement: ast.stmt) -> str:
    """The name on the left of an assignment; "" for other statements."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
    return target.id if isinstance(target, ast.Name) else ""


class Expressions:
    """Evaluates the assignments of one file. `names` has the assigned values so far."""

    def __init__(self, path: Path, names: dict[str, object], budget: Budget) -> None:
        self.path, self.names, self.budget = path, names, budget
        self.references: dict[str, Reference] = {}

    def run(self, statement: ast.stmt) -> None:
        """Evaluate an assignment or an import. A text alone is a comment. Raises ConfigError for other statements."""
        if isinstance(statement, ast.Assign):
            value = self.value(statement.value)
            for target in statement.targets:
                self.assign(target, value)
        elif isinstance(statement, ast.AnnAssign):
            if statement.value is not None:
                self.assign(statement.target, self.value(statement.value))
        elif isinstance(statement, ast.AugAssign):
            self.add(statement)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            self.refer(statement)
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            raise self.refusal(statement, f"{self.called(statement)} is refused")

    def refusal(self, node: ast.AST, message: str, fix: str = READ_NOT_RUN) -> ConfigError:
        return refusal(self.path, node, message, fix)

    def refer(self, statement: ast.Import | ast.ImportFrom) -> None:
        """Record the names of classes that a newer config imports. Raises ConfigError for Python's own modules."""
        module = statement.module or "" if isinstance(statement, ast.ImportFrom) else statement.names[0].name
        package = module.partition(".")[0]
        if not package or package in sys.stdlib_module_names or any(entry.name == "*" for entry in statement.names):
            raise self.refusal(statement, "an import is refused")
        scope = "mmdet." if package == "mmdet" else ""  # configs of other packages use this prefix for its classes
        for entry in statement.names:
            name = entry.name.rpartition(".")[2]
            self.references[entry.asname or entry.name.partition(".")[0]] = Reference(scope + name)

    def assign(self, target: ast.expr, value: object) -> None:
        """Assign a value to a name, or to a key of a dict or a list."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Attribute | ast.Subscript):
            owner = self.value(target.value)
            key = target.attr if isinstance(target, ast.Attribute) else self.value(target.slice)
            try:
                _set_member(owner, key, value)
            except (TypeError, IndexError, ValueError) as error:
                raise self.refusal(target, f"cannot assign to {self.source(target)}: {error}", CORRECT) from error
        else:
            raise self.refusal(target, f"an assignment to {self.source(target)} is refused")

    def add(self, statement: ast.AugAssign) -> None:
        """Evaluate `x += y`. A list is extended in place, so its other names see the change, as in Python."""
        left, right = self.value(statement.target), self.value(statement.value)
        result = self.operation(statement, statement.op, left, right)
        if isinstance(left, list) and isinstance(result, list):
            left[:] = result
        else:
            self.assign(statement.target, result)

    def value(self, node: ast.expr) -> object:
        """The value of an expression. Each supported kind of node has a method with its name."""
        read = getattr(self, f"_{type(node).__name__.lower()}", None)
        if read is None:
            raise self.refusal(node, f"{self.called(node)} is refused")
        try:
            value = read(node)
        except RecursionError as error:
            raise self.refusal(node, "this is nested too deeply", CORRECT) from error
        return value if isinstance(node, ast.Name | ast.Attribute) else self.counted(node, value)

    def counted(self, node: ast.AST, value: object) -> object:
        """Count a new value. Raises ConfigError if it is not plain data or exceeds the budget."""
        if not isinstance(value, PLAIN):
            raise self.refusal(node, f"{self.source(node)} is refused: it is not a text, a number, a list or a dict")
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise self.refusal(node, f"{self.source(node)} is too large", CORRECT)
        if isinstance(value, str | list | tuple | dict):
            self.fits(node, len(value))
            self.budget.make(len(value), self.path)
        return value

    def fits(self, node: ast.AST, length: int) -> None:
        """Raise ConfigError for a sequence that would be too long, before it is created."""
        if length > LONGEST:
            raise self.refusal(node, f"{self.source(node)} is too large", CORRECT)

    def _constant(self, node: ast.Constant) -> object:
        return node.value

    def _list(self, node: ast.List) -> list[object]:
        return self._elements(node.elts)

    def _tuple(self, node: ast.Tuple) -> tuple[object, ...]:
        return tuple(self._elements(node.elts))

    def _elements(self, nodes: list[ast.expr]) -> list[object]:
        elements: list[object] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                elements.extend(self._sequence(node, self.value(node.value)))
                self.fits(node, len(elements))
            else:
                elements.append(self.value(node))
        return elements

    def _dict(self, node: ast.Dict) -> dict[str | float, object]:
        entries: dict[str | float, object] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                entries.update(self._dictionary(value, self.value(value)).items())
            else:
                entries[self._scalar(key, self.value(key))] = self.value(value)
        return entries

    def _set(self, node: ast.Set) -> object:
        """The value of `{{_base_.name}}`, a reference, which Python parses as a set in a set."""
        inner = node.elts[0]
        if len(node.elts) != 1 or not isinstance(inner, ast.Set) or len(inner.elts) != 1:
            raise self.refusal(node, "a set is refused")
        return self.value(inner.elts[0])

    def _call(self, node: ast.Call) -> object:
        """The value of `dict(...)`, or of a conversion such as `float(1e-3)`."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "dict" and len(node.args) <= 1:
            return self.dictionary(node)
        if name not in CONVERSIONS or len(node.args) != 1 or node.keywords:
            raise self.refusal(node, f"a call of {self.source(node.func)} is refused")
        convert, kinds = CONVERSIONS[name]
        argument = self.value(node.args[0])
        if not isinstance(argument, kinds):
            raise self._other_type(node, argument, *kinds)
        try:
            return convert(argument)
        except (ValueError, OverflowError) as error:
            raise self.refusal(node, f"{self.source(node)}: {error}", CORRECT) from error

    def dictionary(self, node: ast.Call) -> dict[str, object]:
        """The arguments of a call as a dict: the entries of another dict, and keywords."""
        entries: dict[str, object] = {}
        for argument in node.args:
            entries |= self._dictionary(argument, self.value(argument))
        for keyword in node.keywords:
            value = self.value(keyword.value)
            entries |= {keyword.arg: value} if keyword.arg else self._dictionary(keyword.value, value)
        return entries

    def _name(self, node: ast.Name) -> object:
        if node.id in self.names:
            return self.names[node.id]
        if node.id not in self.references:
            raise self.refusal(node, f"{node.id} is not assigned before", "assign it first, or refer to _base_")
        return self.references[node.id]

    def _attribute(self, node: ast.Attribute) -> object:
        owner = self.value(node.value)
        if isinstance(owner, Reference):  # a class in an imported module
            return Reference(node.attr)
        return self._member(node, self._dictionary(node, owner), node.attr)

    def _subscript(self, node: ast.Subscript) -> object:
        owner = self.value(node.value)
        if not isinstance(owner, dict | list | tuple | str):
            raise self._other_type(node, owner, dict, list, tuple, str)
        return self._member(node, owner, self.value(node.slice))

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(part and self.value(part) for part in (node.lower, node.upper, node.step)))

    def _member(self, node: ast.expr, owner: object, key: object) -> object:
        try:
            return _get_member(owner, key)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self.refusal(
                node, f"{self.source(node)}: there is no {shown(key)}", "use an existing name"
            ) from error

    def _unaryop(self, node: ast.UnaryOp) -> object:
        value = self.value(node.operand)
        if not isinstance(value, int | float):
            raise self._other_type(node, value, bool, int, float)
        if isinstance(node.op, ast.Not):
            return not value
        if isinstance(node.op, ast.USub):
            return -value
        raise self.refusal(node, f"{self.source(node)} is refused")

    def _binop(self, node: ast.BinOp) -> object:
        return self.operation(node, node.op, self.value(node.left), self.value(node.right))

    def operation(self, node: ast.AST, kind: ast.operator, left: object, right: object) -> object:
        """The result of an arithmetic operation on numbers, or of joining or repeating texts and sequences."""
        operate = OPERATIONS.get(type(kind))
        if operate is None or not self._fits_operation(node, kind, left, right):
            raise self.refusal(node, f"{self.source(node)} is refused: it is not arithmetic on numbers")
        try:
            return self.counted(node, operate(left, right))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise self.refusal(node, f"{self.source(node)}: {error}", CORRECT) from error

    def _fits_operation(self, node: ast.AST, kind: ast.operator, left: object, right: object) -> bool:
        """Whether an operation supports these values. Raises ConfigError if its result would be too large."""
        if isinstance(left, int | float) and isinstance(right, int | float):
            if isinstance(kind, ast.Pow | ast.LShift) and not abs(right) <= MOST_BITS:
                raise self.refusal(node, f"{self.source(node)} is too large", CORRECT)
            return True
        if not isinstance(left, str | list | tuple):
            return False
        if isinstance(kind, ast.Add) and isinstance(right, str | list | tuple) and type(left) is type(right):
            self.fits(node, len(left) + len(right))
            return True
        if isinstance(kind, ast.Mult) and isinstance(right, int):
            self.fits(node, len(left) * right)
            return True
        return False

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        parts, length = [], 0
        for part in node.values:
            value = self.value(part.value if isinstance(part, ast.FormattedValue) else part)
            if isinstance(part, ast.FormattedValue) and (part.format_spec or part.conversion != -1):
                raise self.refusal(node, "a format in a string is refused")
            parts.append(str(self._scalar(part, value)))
            length += len(parts[-1])
            self.fits(node, length)
        return "".join(parts)

    def _sequence(self, node: ast.AST, value: object) -> list[object] | tuple[object, ...]:
        if not isinstance(value, list | tuple):
            raise self._other_type(node, value, list, tuple)
        return value

    def _dictionary(self, node: ast.AST, value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self._other_type(node, value, dict)
        return value

    def _scalar(self, node: ast.AST, value: object) -> str | float:
        if not isinstance(value, str | int | float):
            raise self._other_type(node, value, str, int, float)
        return value

    def _other_type(self, node: ast.AST, value: object, *kinds: type) -> ConfigError:
        names = " or ".join(kind.__name__ for kind in kinds)
        return self.refusal(node, f"the value has the type {type(value).__name__}, expected {names}", CORRECT)

    def source(self, node: ast.AST) -> str:
        """The first characters of a node's source, for a message."""
        try:
            return ast.unparse(node)[:60]
        except RecursionError:
            return "this"

    def called(self, node: ast.AST) -> str:
        """The name of a refused piece of Python, for a message."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return f"a call of {self.source(node.value.func)}"
        return REFUSED.get(type(node), f"`{self.source(node)}`")


def _get_member(owner: object, key: object) -> object:
    """`owner[key]`, with the errors of Python."""
    if isinstance(owner, dict):
        return owner[key]
    if isinstance(owner, list | tuple | str) and isinstance(key, int | slice):
        return owner[key]
    raise TypeError(f"{type(owner).__name__} has no {shown(key)}")


def _set_member(owner: object, key: object, value: object) -> None:
    """`owner[key] = value`, with the errors of Python."""
    if isinstance(owner, dict):
        owner[key] = value
        return
    if not isinstance(owner, list) or not isinstance(key, int):
        raise TypeError(f"{type(owner).__name__} takes no value at {shown(key)}")
    owner[key] = value
