"""The name of the distribution, and the commands that install its extras.

The distribution is not on PyPI, where the name `sandglass` belongs to another project. So a command names a folder or
the packages of an extra, but never this distribution.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

NAME = "sandglass-vision"
CHECKOUT = Path(__file__).resolve().parents[3]  # the root of the checkout, if the package is in its src/


def install_command(extra: str) -> str:
    """The command that installs the packages of the extra `extra` in pyproject.toml.

    In a checkout, the command installs the extra. An installed wheel has no folder to install from, so its command
    names the packages.
    """
    if is_checkout(CHECKOUT):
        folder = "." if Path.cwd() == CHECKOUT else str(CHECKOUT)
        return f"pip install -e {shlex.quote(f'{folder}[{extra}]')}"
    return " ".join(["pip install", *map(shlex.quote, packages(extra))])


def is_checkout(folder: Path) -> bool:
    """Whether `folder` contains the pyproject.toml of this distribution."""
    project = folder / "pyproject.toml"
    return project.is_file() and f'name = "{NAME}"' in project.read_text(encoding="utf-8").splitlines()


def packages(extra: str) -> list[str]:
    """The packages of an extra with their versions, as declared by the installed distribution."""
    from importlib.metadata import PackageNotFoundError, requires  # slow to import

    try:
        declared = [entry.partition(";") for entry in requires(NAME) or ()]
    except PackageNotFoundError:
        return [extra]
    marker = re.compile(rf"""\bextra\s*==\s*["']{re.escape(extra)}["']""")
    return [name.strip() for name, _, condition in declared if marker.search(condition)] or [extra]
