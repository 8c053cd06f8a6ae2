"""Every file in backends/ is tested here because it exists: by the contract, and by the rules of this project."""

from __future__ import annotations

import ast
import re

import pytest

from sandglass.backends import BuildNotes, load_backend
from sandglass.cli.conformance.backends import *  # noqa: F403 - the tests of the contract
from sandglass.core import discover

OWN = discover.own_names("backends")


@pytest.mark.parametrize("name", OWN)
def test_mypy_compares_the_file_with_the_protocol(name: str) -> None:
    """The last lines of a backend's file say so: `this_module` is of the type Backend, with the backend's notes."""
    backend = load_backend(name)
    assert issubclass(backend.Notes, BuildNotes)
    last = ast.parse((discover.PACKAGE / "backends" / f"{name.replace('-', '_')}.py").read_text()).body[-1]
    assert ast.unparse(last) == (
        f"if TYPE_CHECKING:\n    from sandglass.backends import {name} as this_module\n"
        f"    _: Backend[{backend.Notes.__name__}] = this_module"
    )


def test_no_backend_is_named_outside_its_own_file() -> None:
    """The rest of the package knows backends only through the folder."""
    package = discover.PACKAGE
    names = [name for name in OWN if name not in ("null", "reference", "pytorch")]
    # graph/session.py is the graph's own executor; formats/ and two sources hold files that bear their runtime's name.
    allowed = ["backends/", "formats/", "graph/session.py", "sources/ncnn_onnx.py", "sources/foreign.py"]
    for path in package.rglob("*.py"):
        relative = path.relative_to(package).as_posix()
        if any(relative.startswith(prefix) for prefix in allowed):
            continue
        code = re.sub(r'"""(?s:.*?)"""|#.*', "", path.read_text(encoding="utf-8"))
        found = [name for name in names if re.search(rf"\b{name}", code)]
        assert not found, f"{relative} names {found}"
